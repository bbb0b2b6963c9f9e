"""Batches of the tiny dataset, and batches made of their rows."""

from dataclasses import replace

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig

DAY = 20260101
ROW_TENSORS = (
    "numbers", "vectors", "labels", "masks", "user", "item", "time", "domain", "scenario",
    "row_id", "valid",
)  # fmt: skip


def one_rank(*, rank: int = 0, world: int = 1) -> Ranks:
    """A rank that needs no peers, for what is not collective."""
    return Ranks(rank=rank, world=world, device=torch.device("cpu"))


def read_batches(folder, *, ranks=None, batch_size=64, day=DAY, domains=(), seed=1) -> list[Batch]:
    """Read a day with four lanes, so that one, two and four ranks see the same global steps."""
    ranks = ranks or one_rank()
    dataset = open_dataset(folder, ranks)
    if domains:
        dataset = select_rows(dataset, domains=domains, days=[day], ranks=ranks)
    config = ReaderConfig(batch_size=batch_size, lanes=4, window_rows=48)
    return list(Reader(dataset, config=config, ranks=ranks, seed=seed).day(day))


def lists_of(sparse: KeyedJaggedTensor) -> dict[str, list[list[int]]]:
    """Return every row's ids by feature."""
    return {
        name: [one.tolist() for one in torch.split(jagged.values(), jagged.lengths().tolist())]
        for name, jagged in sparse.to_dict().items()
    }


def sparse_of(lists: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    """Return the inverse of ``lists_of``."""
    rows = [row for column in lists.values() for row in column]
    return KeyedJaggedTensor(
        keys=list(lists),
        values=torch.tensor([value for row in rows for value in row], dtype=torch.int64),
        lengths=torch.tensor([len(row) for row in rows], dtype=torch.int32),
    )


def ages_of(batch: Batch) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return every row's ages by feature with times."""
    return {
        name: torch.split(ages, batch.sparse[name].lengths().tolist())
        for name, ages in batch.ages.items()
    }


def take(batch: Batch, rows: list[int]) -> Batch:
    """Return the batch of some rows, in that order."""
    lists = {name: [column[i] for i in rows] for name, column in lists_of(batch.sparse).items()}
    ages = ages_of(batch)
    return replace(
        batch,
        sparse=sparse_of(lists),
        ages={name: torch.cat([column[i] for i in rows]) for name, column in ages.items()},
        **{name: getattr(batch, name)[rows] for name in ROW_TENSORS},
        reps={name: rep[rows] for name, rep in batch.reps.items()},
        present={name: present[rows] for name, present in batch.present.items()},
    )


def pad(batch: Batch, count: int) -> Batch:
    """Return the batch with rows as the reader pads them: zeros, empty bags, not valid."""
    lists = lists_of(batch.sparse)
    tensors = {
        name: torch.cat([tensor, tensor.new_zeros((count, *tensor.shape[1:]))])
        for name in ROW_TENSORS
        for tensor in [getattr(batch, name)]
    }
    sparse = sparse_of({name: [*column, *[[]] * count] for name, column in lists.items()})
    return replace(batch, sparse=sparse, **tensors)


def change_side(batch: Batch, side: str, schema) -> Batch:
    """Return the batch with other values in every feature of one side, and other keys with it."""
    lists, ages = lists_of(batch.sparse), dict(batch.ages)
    for name in schema.select(side=side, sparse=True):
        rows = schema.tables[schema.features[name].table].rows
        kept = slice(-schema.features[name].max_length, None)  # the reader keeps the last ids
        lists[name] = [[(value + 7) % rows for value in [*row, 3][kept]] for row in lists[name]]
        if name in ages:
            moved = [torch.cat([one + 60, torch.zeros(1)])[kept] for one in ages_of(batch)[name]]
            ages[name] = torch.cat(moved)
    numbers = _changed(batch.numbers, side, dict.fromkeys(schema.select(kind="number"), 1), schema)
    vectors = _changed(
        batch.vectors,
        side,
        {name: schema.features[name].length for name in schema.select(kind="vector")},
        schema,
    )
    keys = {side: getattr(batch, side) + 1} if side != "context" else {}
    return replace(
        batch, sparse=sparse_of(lists), ages=ages, numbers=numbers, vectors=vectors, **keys
    )


def _changed(values: torch.Tensor, side: str, widths: dict[str, int], schema) -> torch.Tensor:
    """Return the columns of numbers or vectors with those of one side moved, missing ones too."""
    of_side = [schema.features[name].side == side for name in widths]
    moved = torch.tensor(of_side).repeat_interleave(torch.tensor(list(widths.values())))
    return torch.where(moved, values.nan_to_num() + 1, values)
