"""Every row once, labels masked, both layouts alike."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

from data.kuairand.prepare import Config, run
from lfm4ads.data.columns import check_types, needed_columns
from lfm4ads.data.schema import load_schema
from tests.unit.data_kuairand.world import World, date_of, read_days, read_rows

KEPT = ("user_id", "video_id", "is_like", "long_view")
TIMED = (*KEPT, "time_ms", "is_click", "is_profile_enter")


def prepare(source, output):
    return run(Config(source=source, output=output))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """One log prepared from both layouts."""
    world, folder = World(), tmp_path_factory.mktemp("kuairand")
    official = prepare(world.write_csv(folder / "csv"), folder / "from_csv")
    subset = prepare(world.write_parquet(folder / "parquet"), folder / "from_parquet")
    return world, official, subset


def test_official_rows_are_kept_exactly_once(worlds):
    world, official, _ = worlds
    rows = read_rows(official)
    wanted = Counter(tuple(row[name] for name in (*TIMED, "tab")) for row in world.log)
    assert Counter(tuple(row[name] for name in (*TIMED, "scenario")) for row in rows) == wanted
    assert [row["row_id"] for row in rows] == list(range(len(world.log)))


def test_subset_rows_are_kept_exactly_once(worlds):
    world, _, subset = worlds
    rows = read_rows(subset)
    assert Counter(tuple(row[name] for name in KEPT) for row in rows) == Counter(
        tuple(row[name] for name in KEPT) for row in world.log
    )
    assert [row["row_id"] for row in rows] == list(range(len(world.log)))


def test_rows_are_in_time_order_on_the_day_of_their_time(worlds):
    for dataset in worlds[1:]:
        for day, table in read_days(dataset).items():
            times = table["time_ms"].to_pylist()
            assert times == sorted(times)
            assert {date_of(time) for time in times} == {day}


def test_rows_logged_after_midnight_stay_on_the_day_they_happened(worlds):
    world, official, _ = worlds
    dates = {(row["user_id"], row["video_id"], row["time_ms"]): row["date"] for row in world.log}
    moved = [
        row
        for row in read_rows(official)
        if dates[row["user_id"], row["video_id"], row["time_ms"]] != row["day"]
    ]
    assert len(moved) >= 7
    assert {row["day"] for row in moved} == {20220427}


def test_a_row_repeated_in_every_column_is_one_row(tmp_path):
    world = World()
    num_rows = len(world.log)
    world.log = world.log + [dict(row) for row in world.log[::3]]
    rows = read_rows(prepare(world.write_csv(tmp_path / "csv"), tmp_path / "out"))
    assert len(rows) == num_rows
    world.log[-1]["play_time_ms"] += 1  # an outcome that is not kept still makes it another row
    rows = read_rows(prepare(world.write_csv(tmp_path / "csv2"), tmp_path / "out2"))
    assert len(rows) == num_rows + 1


def test_both_layouts_agree_from_25_april_on(worlds):
    _, official, subset = (read_days(part) if hasattr(part, "glob") else part for part in worlds)
    days = [day for day in official if day >= 20220425]
    assert days == [day for day in subset if day >= 20220425]
    assert len(days) == 7
    for day in days:
        # history's pseudo-times differ from its real times, and with them what falls on the first
        # days that vectors are fitted on; everything else must not
        times = ["recent_long_view_times", "recent_exposed_times"]
        left = [*times, "user_vector", "video_vector"]
        assert official[day].drop_columns(left).equals(subset[day].drop_columns(left))
        for name in times:
            lengths = [list(map(len, side[day][name].to_pylist())) for side in (official, subset)]
            assert lengths[0] == lengths[1]


def test_labels_tabs_and_hours_of_history_are_masked(worlds):
    world, official, subset = worlds
    num_history = sum(row["date"] < 20220425 for row in world.log)
    rows = read_rows(subset)
    history = [row for row in rows if row["scenario"] == 15]
    assert len(history) == num_history
    for row in history:
        assert row["domain"] == 0
        assert row["day"] < 20220425
        for name in ("is_click", "is_profile_enter", "hour", "weekday"):
            assert row[name] is None
    for row in [row for row in rows if row["scenario"] != 15] + read_rows(official):
        assert None not in [row[name] for name in (*TIMED, "hour", "weekday")]


def test_ads_are_tabs_0_2_4_6(worlds):
    for row in read_rows(worlds[1]):
        assert row["domain"] == int(row["scenario"] in (0, 2, 4, 6))


def test_schema_fits_the_files_and_reads_no_outcome(worlds):
    for dataset in worlds[1:]:
        schema = load_schema(dataset)
        for path in dataset.glob("day=*/*.parquet"):
            check_types(pq.read_schema(path), schema, needed_columns(schema), file=path)
        read = {schema.column(name) for name in schema.features}
        words = ("is_click", "long_view", "is_like", "play_time", "stay_time", "is_profile", "show")
        assert not [name for name in read if name.startswith(words) or name.endswith(words)]
        assert all(table.rows >= 256 and table.dim % 4 == 0 for table in schema.tables.values())


def test_an_equal_run_gives_equal_rows(worlds, tmp_path):
    world, official, _ = worlds
    world.log.reverse()  # the files' order is no information
    again = prepare(world.write_csv(tmp_path / "csv"), tmp_path / "out")
    world.log.reverse()
    assert {day: t.to_pylist() for day, t in read_days(again).items()} == {
        day: t.to_pylist() for day, t in read_days(official).items()
    }
