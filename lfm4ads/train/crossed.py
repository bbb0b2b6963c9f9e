"""How experts that cross features join every pair of fields, and how each field sees the others.

Dimension key: N fields, K width of a field, J width of a sub-embedding, W width of all fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lfm4ads.analysis.collapse import Doubles, Projected, pair_strength, projected, sub_abundance
from lfm4ads.core.ranks import Array
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from lfm4ads.nn.interactions.ffm import Ffm
from lfm4ads.nn.interactions.fm import Fm, FmFm, WeightedFm
from lfm4ads.nn.interactions.gwpfm import GwPfm
from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices
from lfm4ads.train.spectra import TableGrams


@dataclass(frozen=True)
class FieldView:
    """How one expert sees each field's table from each other field."""

    expert: str
    table_set: str
    names: tuple[str, ...]
    seen: Projected
    own_N: Doubles
    """Information abundance of each field's table; NaN where it has none."""


@dataclass(frozen=True)
class PairForm:
    """The term v_one^T form v_other of a pair of fields, and what each shows the other."""

    form_KK: Doubles
    one_JK: Doubles
    """one -> other: v_one enters the pair as ``one_JK`` v_one."""
    other_JK: Doubles


def field_views(
    model: Lfm,
    schema: Schema,
    grams: Sequence[TableGrams],
    *,
    lookups: Mapping[str, Mapping[str, Array]] | None = None,
) -> list[FieldView]:
    """Return the view of every expert that crosses features and not pieces of a tower.

    Those of kinds flat and ipnn, whose pairs meet in an MLP, have none.

    Args:
        model: The model.
        schema: Of its features.
        grams: Of its tables.
        lookups: Schema table -> feature -> lookups of every row, by which the rows of a pair count;
            without, all rows count the same.
    """
    by_table = {(one.table, one.table_set): one for one in grams}
    views: list[FieldView] = []
    for expert, (table_set, layout) in model.mix.fields_of_experts().items():
        block = model.mix.interactions[expert]
        if not set(layout.names) & set(schema.features):
            continue
        tables = [
            by_table.get((schema.features[name].table, table_set))
            if name in schema.features
            else None
            for name in layout.names
        ]
        raw = [None if one is None else one.grams["raw"] for one in tables]
        means = [
            None if one is None else _mean_gram(one, name, lookups=lookups)
            for name, one in zip(layout.names, tables, strict=True)
        ]
        if isinstance(block, CrossNetwork):
            weight = block.first_weight().double().cpu().numpy()
            seen = projected(weight, raw, dims=layout.dims)
        elif isinstance(block, Fm | WeightedFm | FmFm | Ffm | GwPfm):
            seen = _paired(block, layout, raw=raw, means=means)
        else:
            continue
        own_N = np.array([sub_abundance(gram, None) for gram in raw])
        views.append(FieldView(expert, table_set, layout.names, seen, own_N))
    return views


def _mean_gram(
    one: TableGrams, name: str, *, lookups: Mapping[str, Mapping[str, Array]] | None
) -> Doubles:
    """Return E[v v^T] (K, K) of the rows a field looks up, or of all rows."""
    counts = (lookups or {}).get(one.table, {}).get(name)
    if counts is None or not counts.sum():
        return one.grams["raw"] / one.rows
    return one.grams[f"by {name}"] / counts.sum()


def _paired(
    block: nn.Module,
    layout: FieldLayout,
    *,
    raw: Sequence[Doubles | None],
    means: Sequence[Doubles | None],
) -> Projected:
    count = layout.num_fields
    abundance_NN = np.full((count, count), np.nan)
    strength_NN = np.full((count, count), np.nan)
    for (one, other), pair in pair_forms(block, layout):
        abundance_NN[one, other] = sub_abundance(raw[one], pair.one_JK)
        abundance_NN[other, one] = sub_abundance(raw[other], pair.other_JK)
        strength = pair_strength(means[one], means[other], pair.form_KK)
        strength_NN[one, other] = strength_NN[other, one] = strength
    return Projected(abundance_NN, strength_NN)


def pair_forms(block: nn.Module, layout: FieldLayout) -> Iterator[tuple[tuple[int, int], PairForm]]:
    """Yield each pair of fields with its term, for interactions that are sums over pairs.

    What they give is a vector whose components sum to the papers' score; the term is of that sum.
    """
    width = layout.dims[0]
    eye_KK = np.eye(width)
    weight = block.weight.detach().double().cpu().numpy() if hasattr(block, "weight") else None  # pyright: ignore[reportCallIssue]
    firsts, seconds = (side.tolist() for side in pair_indices(layout.num_fields))
    for place, (one, other) in enumerate(zip(firsts, seconds, strict=True)):
        match block:
            case WeightedFm():
                own_KK = eye_KK * np.asarray(weight)[place]
                yield (one, other), PairForm(own_KK, own_KK, own_KK)
            case FmFm():
                own_KK = np.asarray(weight)[place]
                yield (one, other), PairForm(own_KK, own_KK.T, own_KK)
            case Ffm():
                # A field leaves itself out of its slots, so the second of a pair is one earlier.
                parts = _part(eye_KK, other - 1, block.width), _part(eye_KK, one, block.width)
                yield (one, other), PairForm(parts[0].T @ parts[1], *parts)
            case GwPfm():
                groups = sorted(set(layout.groups))
                at, to = (groups.index(layout.groups[field]) for field in (one, other))
                parts = _part(eye_KK, to, block.width), _part(eye_KK, at, block.width)
                scale = np.asarray(weight)[_group_pair(at, to, groups=len(groups))]
                yield (one, other), PairForm(scale * parts[0].T @ parts[1], *parts)
            case _:
                yield (one, other), PairForm(eye_KK, eye_KK, eye_KK)


def _part(eye_KK: Doubles, place: int, width: int) -> Doubles:
    return eye_KK[place * width : (place + 1) * width]


def _group_pair(one: int, other: int, *, groups: int) -> int:
    """Return where ``GwPfm.weight`` holds a pair of groups."""
    if one == other:
        return one
    low, high = sorted((one, other))
    return groups + high * (high - 1) // 2 + low
