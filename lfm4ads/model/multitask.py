"""Multi-task networks by name, written out as table sets, experts and what tasks read and train.

One code path carries them all, so that a comparison is of structures and not of programs. K1 is
``task_experts``, K2 ``shared_experts``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lfm4ads.core.errors import UserError
from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.nn.access import SHARED
from lfm4ads.nn.experts import ExpertConfig, MergeConfig
from lfm4ads.nn.tables import TableSet

_MAIN = "main"


@dataclass
class _Plan:
    """What a kind adds to the model's config."""

    sets: dict[str, TableSet]
    experts: dict[str, ExpertConfig]
    reads: dict[str, list[str]]
    trains: dict[str, list[str]]


def expand_multitask(config: LfmConfig, *, tasks: Sequence[str]) -> LfmConfig:
    """Return the config with ``multitask`` written out, so that nothing else has to know of it.

    Raises:
        UserError: The kind does not go with these tasks, or what it sets is set already.
    """
    chosen = config.multitask
    if chosen.kind == "none":
        return config
    _check(config, tasks=tasks)
    order = chosen.order or tuple(tasks)
    plan = _plan(chosen, tasks=tasks)
    heads = config.heads
    if chosen.kind == "esmm":
        given = dict(zip(order[1:], order[:-1], strict=True))
        heads = replace(heads, given=given)
    gated = chosen.kind not in ("single", "shared_bottom", "esmm", "aitm")
    merge = MergeConfig(
        kind="gate" if gated else "mean",
        per_task=True,
        gate_hidden=chosen.gate_hidden if gated else (),
        gate_input=chosen.gate_input if gated else "trained",
        one_gate=chosen.kind == "omoe",
    )
    mix = replace(
        config.mix,
        experts=plan.experts,
        layers=chosen.layers,
        merge=merge,
        chain=order if chosen.kind == "aitm" else (),
    )
    return replace(
        config,
        multitask=MultitaskConfig(),
        sets=plan.sets,
        mix=mix,
        reads=plan.reads,
        trains=plan.trains,
        heads=heads,
    )


def _check(config: LfmConfig, *, tasks: Sequence[str]) -> None:
    chosen = config.multitask
    own = (config.sets, config.mix.experts, config.reads, config.trains, config.mix.chain)
    if any(own) or config.mix.layers > 1 or config.mix.merge != MergeConfig() or config.heads.given:
        raise UserError(
            f"model.multitask.kind={chosen.kind} writes model.sets, reads, trains, heads.given and"
            " mix.experts, layers, merge and chain; leave them out",
            everywhere=True,
        )
    for task in (*chosen.order, *chosen.main):
        if task not in tasks:
            raise UserError(
                f"model.multitask names task {task}; the tasks are {', '.join(tasks)}",
                everywhere=True,
            )
    if len(tasks) < 2 or {SHARED, _MAIN} & set(tasks):
        raise UserError(
            f"model.multitask needs two tasks or more, none called {SHARED} or {_MAIN}; the tasks"
            f" are {', '.join(tasks)}",
            everywhere=True,
        )
    if chosen.kind == "stem_al" and not 0 < len(set(chosen.main)) < len(tasks):
        raise UserError(
            "model.multitask.kind=stem_al needs main tasks, and others beside them; name them in"
            " model.multitask.main",
            everywhere=True,
        )


def _plan(chosen: MultitaskConfig, *, tasks: Sequence[str]) -> _Plan:
    match chosen.kind:
        case "shared_bottom":
            return _shared(chosen, count=1)
        case "omoe" | "mmoe":
            return _shared(chosen, count=chosen.shared_experts)
        case "me_mmoe":
            return _one_set_an_expert(chosen, dims=(chosen.dim,) * chosen.shared_experts)
        case "ame":
            return _one_set_an_expert(chosen, dims=chosen.dims)
        case "stem_al":
            return _auxiliary(chosen, tasks=tasks)
        case _:
            return _by_task(chosen, tasks=tasks)


def _expert(chosen: MultitaskConfig, *, tables: str, owner: str = "") -> ExpertConfig:
    return ExpertConfig(
        tables=tables, interaction=chosen.interaction, hidden=chosen.hidden, owner=owner
    )


def _named(name: str, one: ExpertConfig, *, count: int) -> dict[str, ExpertConfig]:
    return {f"{name}_{place}": one for place in range(1, count + 1)}


def _shared(chosen: MultitaskConfig, *, count: int) -> _Plan:
    experts = _named("expert", _expert(chosen, tables=_MAIN), count=count)
    return _Plan({_MAIN: TableSet(dim=chosen.dim)}, experts, {}, {})


def _one_set_an_expert(chosen: MultitaskConfig, *, dims: Sequence[int]) -> _Plan:
    sets = {f"set_{place}": TableSet(dim=dim) for place, dim in enumerate(dims, 1)}
    experts = {f"expert_{name}": _expert(chosen, tables=name) for name in sets}
    return _Plan(sets, experts, {}, {})


def _by_task(chosen: MultitaskConfig, *, tasks: Sequence[str]) -> _Plan:
    """Return experts of every task, and shared ones, on a set each or all on one.

    A task reads its own experts and the shared ones; STEM's reads all, those of other tasks through
    the stop-gradient.
    """
    own_sets = chosen.kind in ("single", "me_ple", "stem")
    shared = chosen.shared_experts if chosen.kind in ("ple", "me_ple", "stem") else 0
    owners = [*tasks, *([SHARED] if shared else [])]
    single = {_MAIN: TableSet(dim=chosen.dim)}
    sets = {owner: TableSet(dim=chosen.dim) for owner in owners} if own_sets else single
    experts: dict[str, ExpertConfig] = {}
    mine: dict[str, list[str]] = {}
    for owner in owners:
        one = _expert(
            chosen,
            tables=owner if own_sets else _MAIN,
            owner="" if owner == SHARED else owner,
        )
        count = shared if owner == SHARED else chosen.task_experts
        # Not the name of a set: sets and experts share the words of reads and trains.
        found = _named(f"expert_{owner}", one, count=count)
        mine[owner] = list(found)
        experts |= found
    own = {task: [*mine[task], *mine.get(SHARED, [])] for task in tasks}
    if chosen.kind != "stem":
        return _Plan(sets, experts, own, {})
    return _Plan(sets, experts, {}, own if chosen.stop_gradient else {})


def _auxiliary(chosen: MultitaskConfig, *, tasks: Sequence[str]) -> _Plan:
    """Return STEM-AL: main tasks read both sets and train one; auxiliary ones keep to theirs."""
    sets = {_MAIN: TableSet(dim=chosen.dim), "auxiliary": TableSet(dim=chosen.dim)}
    main = _named("expert_main", _expert(chosen, tables=_MAIN), count=chosen.shared_experts)
    helping = _named(
        "expert_auxiliary", _expert(chosen, tables="auxiliary"), count=chosen.task_experts
    )
    others = [task for task in tasks if task not in chosen.main]
    reads = {task: ["auxiliary"] for task in others}
    trains = {task: [_MAIN] for task in chosen.main} if chosen.stop_gradient else {}
    return _Plan(sets, {**main, **helping}, reads, trains)
