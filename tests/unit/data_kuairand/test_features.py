"""Static features, their codes, and the numbers' moments."""

import numpy as np
import pytest

from data.kuairand.prepare import Config, run
from lfm4ads.data.schema import load_schema
from tests.unit.data_kuairand.world import World, read_rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairand")
    return run(Config(source=World().write_csv(folder / "csv"), output=folder / "out"))


def test_tags_are_lists_of_ids(dataset):
    tags = {row["video_id"]: row["tag"] for row in read_rows(dataset)}
    assert tags[11] == [20, 43]
    assert tags[12] == [7, 2, 7]
    assert tags[13] == [13]
    assert tags[10] is None


def test_user_columns_are_the_files(dataset):
    users = {user["user_id"]: user for user in World().users}
    rows = read_rows(dataset)
    assert {row["user_id"] for row in rows} == set(users)
    assert any(user["is_live_streamer"] == -124 for user in users.values())
    for row in rows:
        for name, value in users[row["user_id"]].items():
            assert row[name] == (2**32 + 124 if value == -124 else value), name


def test_video_columns_are_the_files(dataset):
    items = {item["video_id"]: item for item in World().items}
    copied = ("author_id", "video_type", "upload_type", "music_id", "music_type")
    for row in read_rows(dataset):
        item = items.get(row["video_id"])
        if item is None:
            continue
        assert [row[name] for name in copied] == [item[name] for name in copied]
        assert row["video_duration"] == item["video_duration"]
        day = np.datetime64("2022-04-25") - np.datetime64(item["upload_dt"])
        assert row["upload_age_days"] == day.astype(int)
        if item["video_duration"] is None:
            assert row["duration_bucket"] is None
        else:
            seconds = item["video_duration"] / 1000
            assert row["duration_bucket"] == int(4 * np.log2(1 + seconds))


def test_a_video_of_no_features_file_has_nulls_and_stays(dataset, caplog, tmp_path):
    unknown = [row for row in read_rows(dataset) if row["video_id"] == 999]
    assert len(unknown) == 1
    for name in ("author_id", "tag", "video_duration", "upload_age_days", "video_type"):
        assert unknown[0][name] is None
    with caplog.at_level("INFO", logger="lfm4ads.kuairand"):
        run(Config(source=World().write_csv(tmp_path / "csv"), output=tmp_path / "out"))
    assert "lack 0 of the users and 1 of the videos" in caplog.text


def test_moments_are_of_the_days_before_25_april(dataset):
    schema = load_schema(dataset)
    rows = [row for row in read_rows(dataset) if row["day"] < 20220425]
    for name in schema.select(kind="number"):
        values = np.array([row[name] for row in rows if row[name] is not None], dtype=float)
        feature = schema.features[name]
        if feature.log:
            values = np.sign(values) * np.log1p(np.abs(values))
        assert feature.mean == pytest.approx(values.mean(), rel=1e-5), name
        std = values.std()
        assert feature.std == pytest.approx(std if std > 1e-6 else 1.0, rel=1e-4), name


def test_without_history_moments_are_of_25_april(tmp_path):
    world = World()
    world.log = [row for row in world.log if row["date"] >= 20220425]
    world.log.append(world.log[0] | {"date": 20220421, "time_ms": 1650500000000, "video_id": 999})
    # the one earlier row is of an unknown video, so video numbers have no value before 25 April
    dataset = run(Config(source=world.write_csv(tmp_path / "csv"), output=tmp_path / "out"))
    values = [
        row["video_duration"]
        for row in read_rows(dataset)
        if row["day"] == 20220425 and row["video_duration"]
    ]
    feature = load_schema(dataset).features["video_duration"]
    assert feature.mean == pytest.approx(np.log1p(values).mean(), rel=1e-6)
    assert feature.std == pytest.approx(np.log1p(values).std(), rel=1e-5)


def test_tables_hold_four_rows_a_key(dataset):
    tables = load_schema(dataset).tables
    assert tables["user"].rows >= 4 * len(World().users)
    assert tables["onehot_feat3"].rows >= 256
    assert load_schema(dataset).features["recent_tags"].table == "tag"
