"""Forward passes of multi-task networks, a row at a time, as their papers write them."""

from itertools import pairwise

import torch
from torch.nn.functional import linear, softmax

from tests.unit.model.shapes import run

OWN_SETS = ("single", "me_ple", "stem")
UNGATED = ("single", "shared_bottom", "esmm", "aitm")
READ_ALL = ("omoe", "mmoe", "me_mmoe", "ame", "stem", "shared_bottom")


def logits_by_hand(model, batch, *, kind, tasks, layers=1):
    """The kind's logits (B, T)."""
    mix, output = model.mix, run(model, batch)
    fields = mix._fields(output.ur, output.ir, None)
    found = []
    for row in range(len(batch)):
        branch = mix.branches[mix._domains[batch.domain[row]]]
        x = {name: fields[name][row] for name in fields}
        z = merged_by_hand(branch, x, kind=kind, tasks=tasks, layers=layers)
        if kind == "aitm":
            z = chained_by_hand(branch.chain, z, tasks=tasks)
        logits = []
        for place, task in enumerate(tasks):
            top = mlp(branch.tops[place], z[task]).relu()
            weight = model.heads.shared[place] + model.heads.delta[batch.scenario[row], place]
            logits.append(weight @ top + model.heads.bias[batch.scenario[row], place])
        found.append(torch.stack(logits))
    logits_BT = torch.stack(found)
    if kind == "esmm":
        chance_BT = logits_BT.double().sigmoid().cumprod(1)
        return (chance_BT / (1 - chance_BT)).log().float()
    return logits_BT


def mlp(module, x):
    for place, layer in enumerate(module.layers):
        x = linear(x.relu() if place else x, layer.weight, layer.bias)
    return x


def merged_by_hand(branch, x, *, kind, tasks, layers):
    """What each task merges at the last level."""
    owners = [*tasks, "shared"]
    z = {owner: x.get(owner if kind in OWN_SETS else "main") for owner in owners}
    for level in range(layers):
        part = branch if level == 0 else branch.deeper[level - 1]
        e = {}
        for name, expert in part.experts.items():
            owner = owner_of(name, tasks)
            of_set = name.removeprefix("expert_") if kind in ("me_mmoe", "ame") else None
            e[name] = mlp(expert, x[of_set] if of_set else z[owner]).relu()
        streams = tasks if level == layers - 1 else owners
        z = {
            stream: merge_by_hand(
                part, e, seen_by_hand(x, z, stream, kind=kind, level=level), place,
                stream=stream, kind=kind, tasks=tasks,
            )
            for place, stream in enumerate(streams)
        }  # fmt: skip
    return z


def owner_of(name, tasks):
    return next((task for task in tasks if name.startswith(f"expert_{task}_")), "shared")


def seen_by_hand(x, z, stream, *, kind, level):
    """What a gate is computed from."""
    match kind:
        case "me_mmoe":
            return sum(x.values())
        case "ame":
            return torch.cat(list(x.values()))
        case "stem" | "me_ple" | "ple" if level or kind != "ple":
            return z[stream] + z["shared"] if stream != "shared" else z["shared"]
        case _:
            # On one shared table the task's input and the shared one are one, seen once.
            return x.get("main")


def merge_by_hand(part, e, seen, place, *, stream, kind, tasks):
    everything = kind in READ_ALL or stream == "shared"
    near = (stream,) if kind in UNGATED else (stream, "shared")
    reads = [everything or owner_of(name, tasks) in near for name in e]
    if kind in UNGATED:
        return sum(e[name] for name, one in zip(e, reads, strict=True) if one) / sum(reads)
    logits = mlp(part.merge.gates[0 if kind == "omoe" else place], seen)
    share = softmax(logits.masked_fill(~torch.tensor(reads), -torch.inf), 0)
    return sum(share[m] * e[name] for m, name in enumerate(e))


def chained_by_hand(chain, z, *, tasks):
    for before, task in pairwise(tasks):
        told = linear(z[before], chain.passes[task].weight, chain.passes[task].bias).relu()
        pair = [told, z[task]]
        keys, queries, values = (
            [getattr(chain, one)[task].weight @ u for u in pair]
            for one in ("keys", "queries", "values")
        )
        score = [k @ q / len(k) ** 0.5 for k, q in zip(keys, queries, strict=True)]
        share = softmax(torch.stack(score), 0)
        z = z | {task: share[0] * values[0] + share[1] * values[1]}
    return z
