"""Who liked what and since when items are known, against the rows that training reads."""

import numpy as np
import pytest

from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.train.interactions import item_counts, item_days, liked
from tests.gloo import run_ranks
from tests.worlds import write_tiny

DAYS = (20260101, 20260102, 20260103)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("days") / "data", days=3, rows=200)


def read(ranks, folder, task):
    """Return everything this module tells, and by the reader, for users of this rank."""
    dataset = select_rows(open_dataset(folder, ranks), domains=["ads"], days=DAYS, ranks=ranks)
    days = item_days(dataset, DAYS, task=task, ranks=ranks)
    counts = item_counts(dataset, DAYS, task=task, ranks=ranks)
    final, early = (
        liked(dataset, DAYS, task=task, ranks=ranks, final=one) for one in (True, False)
    )
    column = list(dataset.schema.tasks).index(task)
    by_reader = {one: _by_reader(dataset, ranks, column, final=one) for one in (True, False)}
    return days, counts, {True: final, False: early}, by_reader


def _by_reader(dataset, ranks, column, *, final):
    config = ReaderConfig(batch_size=64, lanes=4, shuffle=False)
    reader = Reader(dataset, config=config, ranks=ranks, seed=0, final_labels=final)
    rows = []
    for day in DAYS:
        for batch in reader.day(day):
            positive = (batch.labels * batch.masks)[:, column].numpy() > 0
            columns = (batch.user, batch.item, batch.scenario)
            valid = batch.valid.numpy()
            rows += [
                (day, *row)
                for row in zip(
                    *(one.numpy()[valid].tolist() for one in columns),
                    positive[valid].tolist(),
                    strict=True,
                )
            ]
    return rows


def tasks():
    return ["click", "conversion"]


@pytest.mark.multiproc
@pytest.mark.parametrize("task", tasks())
def test_it_is_what_training_reads_on_any_number_of_ranks(folder, task):
    (alone,) = run_ranks(read, 1, folder, task)
    days, counts, found, by_reader = alone
    first, shown, positives = {}, {}, {}
    for day, _, item, _, positive in by_reader[False]:
        first.setdefault(item, day)
        shown[item] = shown.get(item, 0) + 1
        positives[item] = positives.get(item, 0) + positive
    assert dict(zip(days.items.tolist(), days.first_day.tolist(), strict=True)) == first
    assert len(set(first.values())) > 1
    assert dict(zip(counts.items.tolist(), counts.rows.tolist(), strict=True)) == shown
    assert dict(zip(counts.items.tolist(), counts.positives.tolist(), strict=True)) == positives
    for final in (True, False):
        pairs = found[final]
        own = sorted(zip(pairs.user, pairs.item, pairs.scenario, strict=True))
        assert own == sorted((u, i, s) for _, u, i, s, positive in by_reader[final] if positive)
        assert own
    two = run_ranks(read, 2, folder, task)
    for days_of, counts_of, _, _ in two:
        np.testing.assert_array_equal(days_of.items, days.items)
        np.testing.assert_array_equal(counts_of.positives, counts.positives)
    users = [set(one[2][True].user.tolist()) for one in two]
    assert not users[0] & users[1]
    assert sum(len(one[2][True]) for one in two) == len(found[True])
