"""Features as of the day before, against loops, and blind to what comes later."""

import math

import numpy as np
import pytest

from data.kuairand.beijing import dates, day_start_ms, hours, weekdays
from data.kuairand.history import spread_over_days
from data.kuairand.prepare import Config, run
from tests.unit.data_kuairand.world import BEIJING, FLAGS, World, beijing, date_of, read_rows

LENGTH = 5
PRIOR = 4.0
AS_OF = (
    "user_exposures",
    "user_long_view_rate",
    "item_exposures",
    "item_long_view_rate",
    "recent_long_views",
    "recent_long_view_times",
    "recent_exposed",
    "recent_exposed_times",
    "recent_authors",
    "recent_tags",
)


def prepare(world, folder):
    config = Config(
        source=world.write_csv(folder / "csv"),
        output=folder / "out",
        sequence_length=LENGTH,
        prior_exposures=PRIOR,
    )
    return read_rows(run(config))


def tags_of(item):
    return [int(tag) for tag in item["tag"].split(",")] if item and item["tag"] else []


def expected(row, *, rows, items):
    """The features of one row, the long way round."""
    past = [other for other in rows if other["day"] < row["day"]]
    own = [other for other in past if other["user_id"] == row["user_id"]]
    same = [other for other in past if other["video_id"] == row["video_id"]]
    long = [other for other in own if other["long_view"]][-LENGTH:]
    overall = sum(other["long_view"] for other in past) / len(past) if past else None

    def rate(events):
        views = sum(other["long_view"] for other in events)
        return None if overall is None else (views + PRIOR * overall) / (len(events) + PRIOR)

    seen = [items.get(other["video_id"]) for other in long]
    return {
        "user_exposures": len(own),
        "user_long_view_rate": rate(own),
        "item_exposures": len(same),
        "item_long_view_rate": rate(same),
        "recent_long_views": [other["video_id"] for other in long],
        "recent_long_view_times": [other["time_ms"] for other in long],
        "recent_exposed": [other["video_id"] for other in own[-LENGTH:]],
        "recent_exposed_times": [other["time_ms"] for other in own[-LENGTH:]],
        "recent_authors": [i["author_id"] for i in seen if i and i["author_id"] is not None],
        "recent_tags": [tag for item in seen for tag in tags_of(item)],
    }


def test_as_of_features_equal_loops(tmp_path):
    world = World()
    rows = prepare(world, tmp_path)
    items = {item["video_id"]: item for item in world.items}
    for row in rows:
        for name, value in expected(row, rows=rows, items=items).items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-6), name
            else:
                assert row[name] == value, name
    assert max(len(row["recent_exposed"]) for row in rows) == LENGTH
    assert any(row["recent_tags"] for row in rows)


@pytest.mark.parametrize("change", ["flip", "drop"])
def test_later_rows_change_no_earlier_feature(tmp_path, change):
    before = prepare(World(), tmp_path / "before")
    world = World()
    cut = sorted(row["time_ms"] for row in world.log)[250]
    if change == "flip":
        for row in world.log:
            if row["time_ms"] >= cut:
                row.update({name: 1 - row[name] for name in FLAGS if name != "is_rand"})
    else:
        world.log = [row for row in world.log if row["time_ms"] < cut]
    after = prepare(world, tmp_path / "after")
    earlier = sum(row["time_ms"] < cut for row in before)
    unchanged = earlier if change == "drop" else sum(row["day"] <= date_of(cut) for row in before)
    for old, new in zip(before[:unchanged], after[:unchanged], strict=True):
        same = old if old["time_ms"] < cut else {name: old[name] for name in AS_OF}
        assert {name: new[name] for name in same} == same
    if change == "flip":  # and later ones do change, or this test could not fail
        pairs = zip(before[unchanged:], after[unchanged:], strict=True)
        assert any(old["recent_long_views"] != new["recent_long_views"] for old, new in pairs)


def test_sequences_are_older_than_their_row_in_both_layouts(tmp_path):
    world = World()
    sources = (world.write_csv(tmp_path / "csv"), world.write_parquet(tmp_path / "parquet"))
    for number, source in enumerate(sources):
        for row in read_rows(run(Config(source=source, output=tmp_path / f"out{number}"))):
            for name in ("recent_long_view_times", "recent_exposed_times"):
                assert row[name] == sorted(row[name])
                assert all(date_of(time) < row["day"] for time in row[name])


def test_history_is_spread_over_17_days_in_order():
    rng = np.random.default_rng(0)
    counts = {3: 1, 5: 2, 8: 17, 9: 50, 11: 120}
    users = np.repeat(list(counts), list(counts.values()))
    positions = np.concatenate([rng.permutation(count) + 7 for count in counts.values()])
    shuffle = rng.permutation(len(users))
    times = spread_over_days(users=users[shuffle], positions=positions[shuffle])
    for user, count in counts.items():
        mine = users[shuffle] == user
        ordered = times[mine][np.argsort(positions[shuffle][mine])]
        days = [beijing(int(time)).day for time in ordered]
        assert (np.diff(ordered) > 0).all()
        assert days == [24 - back * 17 // count for back in reversed(range(count))]
        assert beijing(int(ordered[-1])).month == 4


def test_history_times_of_a_day_are_evenly_spaced():
    times = spread_over_days(users=np.full(51, 1), positions=np.arange(51))
    start = day_start_ms(np.datetime64("2022-04-24"))
    assert (times[-3:] - start).tolist() == [21_600_000, 43_200_000, 64_800_000]


def test_the_calendar_is_beijings():
    rng = np.random.default_rng(0)
    times = rng.integers(1_600_000_000_000, 1_700_000_000_000, 2000)
    moments = [beijing(int(time)) for time in times]
    assert dates(times).tolist() == [date_of(int(time)) for time in times]
    assert hours(times).tolist() == [moment.hour for moment in moments]
    assert weekdays(times).tolist() == [moment.weekday() for moment in moments]
    assert moments[0].tzinfo is BEIJING


def test_a_rate_before_any_event_is_null(tmp_path):
    rows = prepare(World(), tmp_path)
    first = rows[0]["day"]
    assert all((row["user_long_view_rate"] is None) == (row["day"] == first) for row in rows)
    assert not any(math.isnan(row["item_long_view_rate"] or 0.0) for row in rows)
