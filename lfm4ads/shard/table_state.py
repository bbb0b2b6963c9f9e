"""Optimiser state of tables in a form that does not know where tables are placed.

Every table has, by the name of its weight: element-wise state (rows, dim); row-wise state
(rows, blocks), a column for each block of the table's columns that has accumulators of its own:
one, or as many as column shards. ``Cuts`` say how wide the blocks are.

Dimension key: R rows of a piece, K blocks read, J blocks written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.whole import Part, make_whole

Cuts = dict[str, list[int]]
"""Weight -> widths of its column blocks, from the left."""
_NAMES = {
    "rowwise_adagrad": {"momentum1": "sum"},
    "adagrad": {"momentum1": "sum"},
    "adam": {"momentum1": "exp_avg", "momentum2": "exp_avg_sq"},
}
"""TorchRec's names of fused state -> torch's, by kind of optimiser."""
_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True)
class Piece:
    """State of one box of a table on this rank."""

    weight: str
    name: str
    rows: range
    columns: range
    tensor: Tensor
    """(R, columns), or (R, 1) with one number a row; shares the optimiser's memory."""

    @property
    def is_row_wise(self) -> bool:
        """Whether a row has one number here; FBGEMM has no tables of one column."""
        return self.tensor.shape[1] == 1


@dataclass(frozen=True)
class Conversion:
    """Row-wise state read in other blocks than the model's, and where its mean goes."""

    target_R: Tensor
    read_RK: Tensor
    weights_K: Tensor
    """Share of the target's columns that is in each block read."""

    def apply(self) -> None:
        """Write the mean; in float64, so that equal accumulators give that accumulator back."""
        for start in range(0, len(self.read_RK), _CHUNK_ROWS):
            some = slice(start, start + _CHUNK_ROWS)
            mean_R = self.read_RK[some].double() @ self.weights_K / self.weights_K.sum()
            self.target_R[some].copy_(mean_R)


def table_cuts(sharded: Sharded) -> Cuts:
    """Return the column blocks of every table that is named on this rank."""
    cuts: Cuts = {}
    for weight, table in _weights(sharded).items():
        value = sharded.model.state_dict()[weight]
        if isinstance(value, ShardedTensor):
            shards = value.metadata().shards_metadata
            blocks = {one.shard_offsets[1]: one.shard_sizes[1] for one in shards}
            cuts[weight] = [blocks[first] for first in sorted(blocks)]
        else:
            cuts[weight] = [sharded.tables[table][1]]
    return cuts


def save_form(sharded: Sharded, cuts: Cuts) -> dict[str, dict[str, Tensor]]:
    """Return state of tables by weight and name, sharing the optimisers' memory."""
    state: dict[str, dict[str, Tensor]] = {}
    for weight, name, pieces in _grouped(sharded):
        if pieces[0].is_row_wise:
            starts = _starts(cuts[weight])
            parts = [
                Part((one.rows.start, starts.index(one.columns.start)), one.tensor)
                for one in pieces
            ]
            columns = len(cuts[weight])
        else:
            parts = [Part((one.rows.start, one.columns.start), one.tensor) for one in pieces]
            columns = sum(cuts[weight])
        rows = sharded.tables[_weights(sharded)[weight]][0]
        whole = make_whole((rows, columns), dtype=pieces[0].tensor.dtype, parts=parts)
        state.setdefault(weight, {})[name] = whole
    return state


def load_form(
    sharded: Sharded, *, own: Cuts, saved: Cuts
) -> tuple[dict[str, dict[str, Tensor]], list[Conversion]]:
    """Return what to read of a checkpoint with the cuts ``saved``, and what to do with it then.

    State in the model's own cuts is read in place.
    """
    state, conversions = save_form(sharded, own), []
    for weight, name, pieces in _grouped(sharded):
        widths = saved[weight]
        if widths == own[weight] or not pieces[0].is_row_wise:
            continue
        reads = _reads(pieces, widths)
        for one in pieces:
            read = reads[one.rows]
            overlaps = _overlaps(one.columns, widths)
            weights_K = torch.zeros(read.tensor.shape[1], dtype=torch.float64)
            for block, width in overlaps.items():
                weights_K[block - read.first[1]] = width
            conversions.append(Conversion(one.tensor[:, 0], read.tensor, weights_K))
        shape = state[weight][name].shape[0], len(widths)
        state[weight][name] = make_whole(
            shape, dtype=pieces[0].tensor.dtype, parts=list(reads.values())
        )
    return state, conversions


def _reads(pieces: list[Piece], widths: list[int]) -> dict[range, Part]:
    """Return for every range of rows a buffer of all saved blocks that its pieces touch."""
    touched: dict[range, list[int]] = {}
    for one in pieces:
        touched.setdefault(one.rows, []).extend(_overlaps(one.columns, widths))
    dtype = pieces[0].tensor.dtype
    return {
        rows: Part(
            (rows.start, min(blocks)),
            torch.empty(len(rows), max(blocks) - min(blocks) + 1, dtype=dtype),
        )
        for rows, blocks in touched.items()
    }


def _starts(widths: list[int]) -> list[int]:
    return [sum(widths[:i]) for i in range(len(widths))]


def _overlaps(columns: range, widths: list[int]) -> dict[int, int]:
    """Return the blocks that a range of columns touches, with the number of columns in each."""
    found = {}
    for block, first in enumerate(_starts(widths)):
        both = min(columns.stop, first + widths[block]) - max(columns.start, first)
        if both > 0:
            found[block] = both
    return found


def _weights(sharded: Sharded) -> dict[str, str]:
    """Return weight -> table of the tables named on this rank."""
    weights = {
        name: name.split(".")[-2]
        for name in sharded.model.state_dict()
        if name.endswith(".weight") and (".embedding_bags." in name or ".embeddings." in name)
    }
    return {name: table for name, table in weights.items() if table in sharded.tables}


def _grouped(sharded: Sharded) -> Iterator[tuple[str, str, list[Piece]]]:
    groups: dict[tuple[str, str], list[Piece]] = {}
    for piece in (*_fused_pieces(sharded), *_dense_pieces(sharded)):
        groups.setdefault((piece.weight, piece.name), []).append(piece)
    for (weight, name), pieces in groups.items():
        yield weight, name, pieces


def _fused_pieces(sharded: Sharded) -> Iterator[Piece]:
    names = _NAMES.get(sharded.optim.sparse_kind, {})
    model = sharded.model.state_dict()
    states: Mapping[str, Mapping[str, Any]] = sharded.fused.state_dict()["state"]
    for weight, state in states.items():
        for key, value in state.items():
            shards = zip(model[weight].local_shards(), value.local_shards(), strict=True)
            for box, shard in shards:
                row, column = box.metadata.shard_offsets
                num_rows, num_columns = box.metadata.shard_sizes
                tensor = shard.tensor
                assert tensor.shape in {(num_rows,), (num_rows, num_columns)}, (weight, key)
                yield Piece(
                    weight,
                    names[key.rsplit(".", 1)[1]],
                    range(row, row + num_rows),
                    range(column, column + num_columns),
                    tensor[:, None] if tensor.dim() == 1 else tensor,
                )


def _dense_pieces(sharded: Sharded) -> Iterator[Piece]:
    """State of tables placed data_parallel, equal on all ranks."""
    names = {id(parameter): name for name, parameter in sharded.dense_parameters().items()}
    for optimizer in sharded.dense[1:]:
        for parameter, state in optimizer.state.items():
            rows, dim = parameter.shape
            for name, tensor in state.items():
                yield Piece(names[id(parameter)], name, range(rows), range(dim), tensor)
