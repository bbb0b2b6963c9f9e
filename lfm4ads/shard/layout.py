"""Which rank holds which rectangle of a table, for every way to cut one.

One form says them all: columns are cut over groups of ranks, and rows over the ranks of a group.
"""

from dataclasses import dataclass
from typing import Literal

from lfm4ads.core.errors import UserError

Kind = Literal[
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid",
]
Groups = list[list[int]]
"""Ranks by group of columns and then by block of rows; empty for a table every rank has whole."""
COLUMN_STEP = 4
"""FBGEMM wants widths that are multiples of it."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a table on one rank; TorchRec's shard."""

    rank: int
    first_row: int
    rows: int
    first_column: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """Numbers that every rank holds so far, and how ranks lie on hosts."""

    numbers: list[int]
    """By rank."""
    host_ranks: int

    def ranks(self) -> list[int]:
        """Return the ranks, the emptiest first."""
        return sorted(range(len(self.numbers)), key=self.numbers.__getitem__)

    def hosts(self) -> list[list[int]]:
        """Return the ranks of each host in their order, the emptiest host first."""
        hosts = [
            list(range(first, first + self.host_ranks))
            for first in range(0, len(self.numbers), self.host_ranks)
        ]
        return sorted(hosts, key=lambda host: sum(self.numbers[rank] for rank in host))

    def add(self, pieces: list[Piece]) -> None:
        """Count the pieces of a table."""
        for piece in pieces:
            self.numbers[piece.rank] += piece.rows * piece.columns


def choose_groups(kind: Kind, *, dim: int, load: Load) -> Groups:
    """Return who holds a table of width ``dim``: the emptiest ranks or hosts."""
    ranks, hosts = load.ranks(), load.hosts()
    groups: Groups = []
    match kind:
        case "data_parallel":
            pass
        case "table_wise":
            groups = [ranks[:1]]
        case "row_wise":
            groups = [sorted(ranks)]
        case "column_wise":
            groups = [[rank] for rank in ranks]
        case "table_row_wise":
            groups = hosts[:1]
        case "table_column_wise":
            groups = [[rank] for rank in ranks if rank in hosts[0]]
        case "grid":
            groups = hosts
    return groups[: num_column_shards(dim, most=len(groups))] if groups else []


def num_column_shards(dim: int, *, most: int) -> int:
    """Return the largest number of equal column shards that FBGEMM takes."""
    return max(n for n in range(1, most + 1) if dim % (COLUMN_STEP * n) == 0)


def cut(groups: Groups, *, shape: tuple[int, int]) -> list[Piece]:
    """Return the pieces of a table of ``shape`` (rows, dim), by columns and then by rows.

    Rows go in blocks of ceil(rows / ranks), so that the last rank may hold few: TorchRec finds a
    row's rank by dividing by that size.
    """
    rows, dim = shape
    width = dim // max(len(groups), 1)
    pieces: list[Piece] = []
    for number, group in enumerate(groups):
        block = -(-rows // len(group))
        for at, rank in enumerate(group):
            first = min(at * block, rows)
            held = min(block, rows - first)
            pieces.append(Piece(rank, first, held, number * width, width))
    return pieces


def check_cut(table: str, *, kind: Kind, shape: tuple[int, int], load: Load) -> None:
    """Refuse what cannot hold for a table of ``shape`` (rows, dim).

    Raises:
        UserError: too few rows, a width FBGEMM does not take, or hosts of different sizes.
    """
    rows, dim = shape
    world = len(load.numbers)
    if dim % COLUMN_STEP:
        raise UserError(
            f"table {table} has dim {dim}, which is no multiple of {COLUMN_STEP}; round it up",
            everywhere=True,
        )
    if kind in ("table_row_wise", "table_column_wise", "grid") and world % load.host_ranks:
        raise UserError(
            f"table {table} cannot be placed {kind}: {world} ranks are not whole hosts of"
            f" {load.host_ranks}; start equally many on every host or place it row_wise",
            everywhere=True,
        )
    holders = {"row_wise": world, "table_row_wise": load.host_ranks, "grid": load.host_ranks}
    if not fills(rows, holders.get(kind, 1)):
        raise UserError(
            f"table {table} has {rows} rows, too few for {kind} on {holders[kind]} ranks;"
            " place it table_wise",
            everywhere=True,
        )


def fills(rows: int, ranks: int) -> bool:
    """Return whether blocks of ceil(rows / ranks) leave no rank without a row.

    With an empty one TorchRec 1.8 crashes row_wise, and table_row_wise learns something else.
    """
    return rows > -(-rows // ranks) * (ranks - 1)
