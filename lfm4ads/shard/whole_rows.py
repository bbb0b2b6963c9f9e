"""Whole rows of tables, wherever their pieces are, each on one rank and a block at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from lfm4ads.shard.sharded import Sharded

CHUNK_ROWS = 1 << 16
"""Rows of a block: 32 MB in float64 at width 64."""


@dataclass(frozen=True)
class Box:
    """A piece of a table that is on this rank, and that no other rank answers for."""

    first_row: int
    first_column: int
    cells: Tensor
    """(rows, columns), sharing the table's memory."""


@dataclass(frozen=True)
class RowBlock:
    """The same rows of several tables."""

    first_row: int
    rows: dict[str, Tensor]
    """(C, dim) by table."""


Boxes = dict[str, list[Box]]
_Bounds = dict[str, list[list[int]]]
"""Table -> first row, first column, rows and columns of its boxes on one rank."""


def table_boxes(sharded: Sharded) -> Boxes:
    """Return the boxes of every table; of tables that all ranks hold, each answers for some rows.

    Over all ranks, the boxes of a table cover each of its cells once.
    """
    boxes: Boxes = {name: [] for name in sharded.tables}
    ranks = sharded.ranks
    for name, value in sharded.model.state_dict().items():
        table = name.split(".")[-2] if name.endswith(".weight") else ""
        if table not in boxes or not (".embedding_bags." in name or ".embeddings." in name):
            continue
        if isinstance(value, ShardedTensor):
            for one in value.local_shards():
                first_row, first_column = one.metadata.shard_offsets
                boxes[table].append(Box(first_row, first_column, one.tensor.detach()))
        else:
            first, stop = (
                len(value) * rank // ranks.world for rank in (ranks.rank, ranks.rank + 1)
            )
            boxes[table].append(Box(first, 0, value.detach()[first:stop]))
    return {table: [one for one in found if one.cells.numel()] for table, found in boxes.items()}


def whole_rows(
    sharded: Sharded, tables: Sequence[str], *, chunk_rows: int = CHUNK_ROWS
) -> Iterator[RowBlock]:
    """Yield blocks of whole rows of equally long tables, each row once over all ranks. Collective.

    Rows stay where they are, on their device, if every rank holds the same rows of all the tables
    in full width. Otherwise they move to the host of the rank that gets them, ``chunk_rows`` a rank
    at a time; all ranks must then exhaust the iterator.
    """
    lengths = {sharded.tables[table][0] for table in tables}
    if len(lengths) != 1:
        raise ValueError(f"tables {', '.join(tables)} have different numbers of rows: {lengths}")
    every = table_boxes(sharded)
    boxes = {table: every[table] for table in tables}
    dims = {table: sharded.tables[table][1] for table in tables}
    if sharded.ranks.any(not _is_whole(boxes, dims)):
        yield from _moved(sharded, boxes, dims=dims, num_rows=lengths.pop(), chunk_rows=chunk_rows)
    else:
        yield from _here(boxes, chunk_rows=chunk_rows)


def _is_whole(boxes: Boxes, dims: Mapping[str, int]) -> bool:
    spans = [sorted((one.first_row, len(one.cells)) for one in found) for found in boxes.values()]
    wide = all(one.cells.shape[1] == dims[table] for table, found in boxes.items() for one in found)
    return wide and all(span == spans[0] for span in spans)


def _here(boxes: Boxes, *, chunk_rows: int) -> Iterator[RowBlock]:
    ordered = {
        table: sorted(found, key=lambda one: one.first_row) for table, found in boxes.items()
    }
    for beside in zip(*ordered.values(), strict=True):
        for start in range(0, len(beside[0].cells), chunk_rows):
            some = slice(start, start + chunk_rows)
            rows = {table: one.cells[some] for table, one in zip(ordered, beside, strict=True)}
            yield RowBlock(beside[0].first_row + start, rows)


def _moved(
    sharded: Sharded, boxes: Boxes, *, dims: Mapping[str, int], num_rows: int, chunk_rows: int
) -> Iterator[RowBlock]:
    ranks = sharded.ranks
    mine: _Bounds = {
        table: [[one.first_row, one.first_column, *one.cells.shape] for one in found]
        for table, found in boxes.items()
    }
    layouts: list[_Bounds] = [json.loads(text) for text in ranks.texts(json.dumps(mine))]
    for start in range(0, num_rows, chunk_rows * ranks.world):
        edges = [min(start + rank * chunk_rows, num_rows) for rank in range(ranks.world + 1)]
        spans = [range(edges[rank], edges[rank + 1]) for rank in range(ranks.world)]
        received = ranks.exchange([_cells_of(boxes, span) for span in spans])
        span = spans[ranks.rank]
        if span:
            yield RowBlock(span.start, _joined(received, layouts, span=span, dims=dims))


def _cells_of(boxes: Boxes, span: range) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return what is here of some rows, table by table and box by box, in one array."""
    flat = [np.zeros(0, dtype=np.float32)]
    for found in boxes.values():
        for one in found:
            rows = _overlap(span, first=one.first_row, length=len(one.cells))
            cells = one.cells[rows.start - one.first_row : rows.stop - one.first_row]
            flat.append(cells.float().cpu().numpy().reshape(-1))
    return np.concatenate(flat)


def _joined(
    received: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]],
    layouts: Sequence[_Bounds],
    *,
    span: range,
    dims: Mapping[str, int],
) -> dict[str, Tensor]:
    whole = {table: torch.full((len(span), dim), torch.nan) for table, dim in dims.items()}
    for flat, layout in zip(received, layouts, strict=True):
        at = 0
        for table, bounds in layout.items():
            for first_row, first_column, length, width in bounds:
                rows = _overlap(span, first=first_row, length=length)
                cells = flat[at : at + len(rows) * width].reshape(len(rows), width).copy()
                at += cells.size
                places = slice(rows.start - span.start, rows.stop - span.start)
                columns = slice(first_column, first_column + width)
                whole[table][places, columns] = torch.from_numpy(cells)
    return whole


def _overlap(span: range, *, first: int, length: int) -> range:
    start = max(span.start, first)
    return range(start, max(start, min(span.stop, first + length)))
