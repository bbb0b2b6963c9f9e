"""A rank decodes a row group once for each of its lanes, however many windows lie in it."""

import pytest

from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.rows import decode
from tests.unit.data.states import one_rank
from tests.worlds import write_tiny

DAY, ROWS = 20260101, 203


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_lane_decodes_a_row_group_once(tmp_path, lanes, monkeypatch):
    dataset = open_dataset(write_tiny(tmp_path, rows=ROWS), one_rank())
    groups = []

    def counted(dataset, group, *, horizons=None):
        groups.append(group.index)
        return decode(dataset, group, horizons=horizons)

    monkeypatch.setattr("lfm4ads.data.reader.decode", counted)
    config = ReaderConfig(batch_size=lanes, lanes=lanes, window_rows=2)
    batches = Reader(dataset, config=config, ranks=one_rank(), seed=0).day(DAY)
    assert sum(int(batch.valid.sum()) for batch in batches) == ROWS
    wanted, first = 0, 0
    for group in dataset.groups(DAY):
        last = first + group.rows
        wanted += sum(
            ROWS * lane // lanes < last and first < ROWS * (lane + 1) // lanes
            for lane in range(lanes)
        )
        first = last
    assert len(groups) <= wanted  # lanes that are in one at the same time share it
