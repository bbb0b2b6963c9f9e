"""Finding scored runs, reading their rows, refusing those that cannot be compared."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.scored_days import (
    check_same_rows,
    common_days,
    find_scored_runs,
    load_scores,
    scored_days,
)


def write_run(folder, *, rows=6, days=(20260103, 20260104), labels=None, first=0, finished=True):
    """A run that scored some days, in two parts each, rows in no order."""
    rng = np.random.default_rng(0)
    for place, day in enumerate(days):
        row_id = rng.permutation(np.arange(first + place * rows, first + (place + 1) * rows))
        label = (row_id % 2).astype(np.int8) if labels is None else np.full(rows, labels, np.int8)
        table = pa.table(
            {
                "row_id": row_id,
                "user": row_id % 3,
                "scenario": np.zeros(rows, np.int64),
                "day": np.full(rows, day),
                "label_click": pa.array(label, mask=row_id % 5 == 0),
                "logit_click": (row_id / 10).astype(np.float32),
            }
        )
        for part in range(2):
            path = folder / "scores" / f"day={day}" / f"part-{part:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.slice(part * rows // 2, rows // 2), path)
    if finished:
        (folder / "report.json").write_text("{}")
    return folder


def test_rows_are_sorted_and_missing_labels_are_told(tmp_path):
    run = write_run(tmp_path)
    scores = load_scores(run, days=[20260103, 20260104], tasks=["click"])
    assert scores.row_id_N.tolist() == list(range(12))
    assert scores.label_N["click"].tolist() == [-1, 1, 0, 1, 0, -1, 0, 1, 0, 1, -1, 1]
    np.testing.assert_allclose(scores.logit_N["click"], np.arange(12) / 10, rtol=1e-6)
    assert scores.user_N.tolist() == [0, 1, 2] * 4
    late = load_scores(run, days=[20260104], tasks=["click"])
    assert late.row_id_N.tolist() == list(range(6, 12))


def test_runs_are_found_in_a_fixed_order(tmp_path):
    for name in ("wide", "plain", "other"):
        for seed in (10, 2):
            write_run(tmp_path / name / f"seed-{seed}")
    write_run(tmp_path / "half" / "seed-2", finished=False)
    (tmp_path / "comparable" / "figures").mkdir(parents=True)
    found = find_scored_runs(tmp_path, needed=["plain"])
    assert list(found) == [(name, seed) for name in ("plain", "other", "wide") for seed in (2, 10)]
    assert found["wide", 10] == tmp_path / "wide" / "seed-10"
    chosen = find_scored_runs(tmp_path, needed=["plain"], variants=["wide", "plain"])
    assert [name for name, _ in chosen] == ["plain", "plain", "wide", "wide"]


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    one = write_run(tmp_path / "one" / "seed-0")
    write_run(tmp_path / "two" / "seed-1")
    with pytest.raises(UserError, match=r"two has seeds \[1\] and one has \[0\]; run both with"):
        find_scored_runs(tmp_path, needed=["one"])
    with pytest.raises(UserError, match="has no finished run of best, only of one, two; run it"):
        find_scored_runs(tmp_path, needed=["best"])
    later = write_run(tmp_path / "later", days=(20260104,))
    with pytest.raises(UserError, match=r"later scored 20260104 to 20260104 \(1 days\) and .*one"):
        common_days([one, later])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none has no scores/.* rerun pretrain with write_scores"):
        scored_days(tmp_path / "none")
    with pytest.raises(UserError, match="has no column label_buy; the run scored click, compare"):
        load_scores(one, days=[20260103], tasks=["buy"])


def test_other_rows_or_labels_are_one_sentence(tmp_path):
    names = {"one": {}, "moved": {"first": 3}, "zeros": {"labels": 0}}
    runs = {name: write_run(tmp_path / name, **words) for name, words in names.items()}
    rows = {
        name: load_scores(run, days=[20260103, 20260104], tasks=["click"])
        for name, run in runs.items()
    }
    check_same_rows(rows["one"], rows["one"], first=runs["one"], run=runs["one"])
    with pytest.raises(UserError, match=r"moved scored other rows .*\(12 and 12, 9 in common\)"):
        check_same_rows(rows["one"], rows["moved"], first=runs["one"], run=runs["moved"])
    with pytest.raises(UserError, match=r"zeros and .*one have different label_click for the same"):
        check_same_rows(rows["one"], rows["zeros"], first=runs["one"], run=runs["zeros"])


def test_a_row_twice_and_a_torn_file_are_one_sentence(tmp_path):
    run = write_run(tmp_path)
    paths = sorted(run.glob("scores/day=20260103/*"))
    pq.write_table(pq.read_table(paths[0]), paths[1])
    with pytest.raises(UserError, match=r"hold row_id \d twice; rerun pretrain"):
        load_scores(run, days=[20260103], tasks=["click"])
    paths[1].write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"part-00001.parquet is not a readable Parquet file"):
        load_scores(run, days=[20260103], tasks=["click"])


def test_a_dataset_without_row_ids_is_told_so(tmp_path):
    run = write_run(tmp_path, days=(20260103,))
    for path in run.glob("scores/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.set_column(0, "row_id", [np.full(table.num_rows, -1)]), path)
    with pytest.raises(UserError, match="hold row_id -1 twice; give its schema a row_id"):
        load_scores(run, days=[20260103], tasks=["click"])
