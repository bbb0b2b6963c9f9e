"""First values are a function of (seed, table, row, column) and of nothing else."""

import numpy as np
import torch

from lfm4ads.shard.initialise import fill_rows, row_values

SHAPE = (1000, 12)


def whole(table="user", *, seed=3, shape=SHAPE):
    return row_values(table, rows=range(shape[0]), columns=range(shape[1]), shape=shape, seed=seed)


def test_a_part_of_a_table_is_that_part_of_the_whole():
    values = whole()
    for rows, columns in (
        (range(7, 90), range(12)),
        (range(1000), range(4, 8)),
        (range(0), range(12)),
    ):
        part = row_values("user", rows=rows, columns=columns, shape=SHAPE, seed=3)
        wanted = values[rows.start : rows.stop, columns.start : columns.stop]
        assert torch.equal(part, wanted)


def test_filling_in_chunks_changes_nothing(monkeypatch):
    monkeypatch.setattr("lfm4ads.shard.initialise._CHUNK_CELLS", 50)
    shard = torch.full((50, 4), float("nan"))
    fill_rows(shard, "user", first_row=100, first_column=8, shape=SHAPE, seed=3)
    assert torch.equal(shard, whole()[100:150, 8:12])


def test_values_are_uniform_in_the_stated_range():
    values = whole().numpy().ravel() * np.sqrt(SHAPE[0])
    assert np.abs(values).max() <= 1
    # 12,000 draws: the mean of uniform [-1, 1] is within 4 standard errors, every tenth holds 10 %.
    assert abs(values.mean()) < 4 / np.sqrt(3 * values.size)
    counts = np.histogram(values, bins=10, range=(-1, 1))[0]
    assert np.abs(counts / values.size - 0.1).max() < 4 * np.sqrt(0.09 / values.size)


def test_seeds_tables_rows_and_columns_are_unrelated():
    values = whole()
    assert len(torch.unique(values)) > 0.99 * values.numel()
    others = [whole(seed=4), whole("item"), whole("user2"), values.roll(1, 0), values.roll(1, 1)]
    for other in others:
        together = np.corrcoef(values.numpy().ravel(), other.numpy().ravel())[0, 1]
        assert abs(together) < 4 / np.sqrt(values.numel())
    assert not set(values.ravel().tolist()) <= set(whole(seed=4).ravel().tolist())
