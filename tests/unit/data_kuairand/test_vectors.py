"""Vectors come of the first days alone, and of a decomposition that numpy confirms."""

import numpy as np
import pytest

from data.kuairand.prepare import Config, run
from data.kuairand.vectors import VECTOR_LENGTH, fit_space
from tests.unit.data_kuairand.world import World, read_rows

NUM_USERS, NUM_ITEMS = 60, 45
DAYS = 14
"""The made-up log begins on 15 April, so its vectors are of seven days."""
LAST_FITTED = 20220421


def views(seed=0):
    """Two kinds of users, each long-viewing one half of the videos nine times in ten."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, NUM_USERS - 1, 900)
    half = (users % 2) ^ (rng.random(900) < 0.1)
    items = 2 * rng.integers(0, NUM_ITEMS // 2, 900) + half
    return users, items


def fitted(users, items):
    return fit_space(users, items=items, num_users=NUM_USERS, num_items=NUM_ITEMS)


def listed(vectors, size):
    return vectors.column(np.arange(size)).to_pylist()


def test_vectors_are_those_of_a_full_decomposition():
    users, items = views()
    space = fitted(users, items)
    seen = np.zeros((NUM_USERS, NUM_ITEMS))
    seen[users, items] = 1
    viewers, seen_by = seen.sum(axis=0), seen.sum(axis=1)
    weighted = seen / np.sqrt(np.outer(1 + seen_by, 1 + viewers))
    weighted[:, viewers < 2] = 0
    _, singular, right = np.linalg.svd(weighted)
    wanted = right[:VECTOR_LENGTH].T * singular[:VECTOR_LENGTH]
    wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1e-12)
    found = listed(space.videos, NUM_ITEMS)
    known = [video for video in range(NUM_ITEMS) if found[video]]
    assert known == np.flatnonzero(viewers >= 2).tolist()
    videos = np.array([found[video] for video in known])
    np.testing.assert_allclose(videos @ videos.T, wanted[known] @ wanted[known].T, atol=1e-3)
    people = listed(space.users, NUM_USERS)
    unit = dict(zip(known, videos, strict=True))
    for user in range(NUM_USERS):
        own = [unit[video] for video in np.flatnonzero(seen[user]) if video in unit]
        if own:
            np.testing.assert_allclose(people[user], np.mean(own, axis=0), atol=1e-6)
        else:
            assert people[user] is None
    assert people[NUM_USERS - 1] is None


def test_users_are_nearer_to_videos_of_their_kind():
    space = fitted(*views())
    users, videos = (
        {key: one for key, one in enumerate(listed(*side)) if one}
        for side in ((space.users, NUM_USERS), (space.videos, NUM_ITEMS))
    )
    same, other = [], []
    for user, mine in users.items():
        for video, its in videos.items():
            (same if user % 2 == video % 2 else other).append(np.dot(mine, its))
    assert np.mean(same) > np.mean(other) + 0.2


@pytest.mark.parametrize("num_views", [0, 1, 3])
def test_too_few_views_for_any_vector(num_views):
    space = fitted(np.arange(num_views), np.arange(num_views))
    assert listed(space.users, NUM_USERS) == [None] * NUM_USERS
    assert listed(space.videos, NUM_ITEMS) == [None] * NUM_ITEMS


def test_fewer_dimensions_than_components():
    space = fitted(np.array([0, 1, 2]), np.array([5, 5, 5]))
    vector = listed(space.videos, NUM_ITEMS)[5]
    assert np.abs(vector).tolist() == pytest.approx([1.0] + [0.0] * (VECTOR_LENGTH - 1))
    assert listed(space.users, NUM_USERS)[1] == vector


def prepare(world, folder, *, layout="csv", **options):
    source = getattr(world, f"write_{layout}")(folder / "source")
    return read_rows(run(Config(source=source, output=folder / "out", vector_days=DAYS, **options)))


def vectors_of(rows):
    return [(row["user_vector"], row["video_vector"]) for row in rows]


@pytest.mark.parametrize("layout", ["csv", "parquet"])
def test_first_days_have_none_and_later_rows_those_of_their_keys(tmp_path, layout):
    rows = prepare(World(), tmp_path, layout=layout)
    first = [row for row in rows if row["day"] <= LAST_FITTED]
    later = [row for row in rows if row["day"] > LAST_FITTED]
    assert first
    assert set(vectors_of(first)) == {(None, None)}
    seen = {(row["user_id"], row["video_id"]) for row in first if row["long_view"]}
    viewers = {video: {u for u, v in seen if v == video} for _, video in seen}
    told = {video for video, users in viewers.items() if len(users) >= 2}
    frozen = {}
    for row in later:
        assert (row["video_vector"] is None) == (row["video_id"] not in told)
        for name, key in (("user_vector", "user_id"), ("video_vector", "video_id")):
            assert frozen.setdefault((name, row[key]), row[name]) == row[name]
        own = [video for user, video in seen if user == row["user_id"] and video in told]
        assert (row["user_vector"] is None) == (not own)
    assert {row["video_vector"] is None for row in later} == {True, False}
    both = [row for row in later if row["user_vector"] and row["video_vector"]]
    assert len(both) > 0.5 * len(later)


def test_later_outcomes_change_no_vector_and_earlier_ones_do(tmp_path):
    before = vectors_of(prepare(World(), tmp_path / "before"))
    for name, changes in (("later", False), ("earlier", True)):
        world = World()
        for row in world.log:
            if (row["date"] <= LAST_FITTED) == changes:
                row["long_view"] = 1 - row["long_view"]
        after = vectors_of(prepare(world, tmp_path / name))
        assert (after != before) == changes


def test_vectors_must_end_before_downstream_training_starts(tmp_path):
    for days in (0, 18):
        with pytest.raises(ValueError, match=rf"vector_days must be in 1..17.* got {days}"):
            Config(source=tmp_path, output=tmp_path, vector_days=days)
