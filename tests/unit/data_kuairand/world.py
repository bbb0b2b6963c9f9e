"""A small made-up log in both layouts KuaiRand comes in."""

import csv
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

BEIJING = timezone(timedelta(hours=8))
USERS = [0, 3, 4, 7, 9, 2**40, 2**53 + 1]
VIDEOS = list(range(10, 34))
LOG_COLUMNS = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow"),
    *("is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"),
)
FLAGS = [name for name in LOG_COLUMNS if name.startswith("is_") or name == "long_view"]


def beijing(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, tz=BEIJING)


def date_of(time_ms: int) -> int:
    return int(beijing(time_ms).strftime("%Y%m%d"))


def exposure(rng: np.random.Generator, *, user: int, moment: datetime) -> dict[str, int]:
    """One row of a log; the label columns are coin flips."""
    row = dict.fromkeys(LOG_COLUMNS, 0)
    row.update({name: int(rng.random() < 0.4) for name in FLAGS if name != "is_rand"})
    row.update(
        user_id=user,
        video_id=int(rng.choice(VIDEOS)),
        time_ms=int(moment.timestamp() * 1000),
        date=int(moment.strftime("%Y%m%d")),
        hourmin=moment.hour * 100,
        tab=int(rng.integers(0, 15)),
        play_time_ms=int(rng.integers(0, 90_000)),
    )
    return row


def make_log(seed: int = 0, *, num_rows: int = 400) -> list[dict[str, int]]:
    """Rows of 15 April - 1 May in no order; rows of 27 April's last hour are logged on the 28th."""
    rng = np.random.default_rng(seed)
    start = datetime(2022, 4, 15, tzinfo=BEIJING)
    rows = []
    for _ in range(num_rows):
        moment = start + timedelta(milliseconds=int(rng.integers(0, 17 * 86_400_000)))
        row = exposure(rng, user=USERS[int(rng.integers(len(USERS)))], moment=moment)
        if moment.day == 27 and moment.hour == 23:
            row["date"] += 1
        rows.append(row)
    late = start.replace(day=27, hour=23, minute=30)
    rows += [exposure(rng, user=user, moment=late) | {"date": 20220428} for user in USERS]
    rows.append(dict(rows[0]))
    rows[-1]["video_id"] = 999  # of no features file
    return rows


def make_users() -> list[dict[str, object]]:
    rng = np.random.default_rng(1)
    rows = []
    for user in USERS:
        row: dict[str, object] = {"user_id": user, "user_active_degree": "full_active"}
        for name in ("is_lowactive_period", "is_live_streamer", "is_video_author"):
            row[name] = -124 if name == "is_live_streamer" and user % 2 else int(rng.integers(2))
        for name in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days"):
            row[name] = int(rng.integers(0, 3000))
            row[f"{name}_range"] = "(0,10]"
        for n in range(18):
            row[f"onehot_feat{n}"] = None if n > 11 and user == 4 else int(rng.integers(0, 9))
        rows.append(row)
    return rows


def make_items() -> list[dict[str, object]]:
    return [
        {
            "video_id": video,
            "author_id": None if video == 13 else video // 2,
            "video_type": "NORMAL",
            "upload_dt": f"2022-04-{video - 9:02d}" if video < 20 else "2021-12-31",
            "upload_type": "Web",
            "visible_status": 0,
            "video_duration": None if video == 12 else 1000.0 * video,
            "server_width": 720,
            "server_height": 1280,
            "music_id": 2**53 + video,
            "music_type": None if video == 11 else 4,
            "tag": {10: None, 11: "20,43", 12: "7, 2 ,7"}.get(video, str(video)),
        }
        for video in VIDEOS
    ]


@dataclass
class World:
    """What the files will hold; a test may change it before writing."""

    log: list[dict[str, int]] = field(default_factory=make_log)
    users: list[dict[str, object]] = field(default_factory=make_users)
    items: list[dict[str, object]] = field(default_factory=make_items)

    def write_csv(self, folder: Path) -> Path:
        """Write the official layout."""
        data = folder / "data"
        data.mkdir(parents=True)
        before = [row for row in self.log if row["date"] <= 20220421]
        after = [row for row in self.log if row["date"] > 20220421]
        write_csv(data / "log_standard_4_08_to_4_21_pure.csv", before, names=LOG_COLUMNS)
        write_csv(data / "log_standard_4_22_to_5_08_pure.csv", after, names=LOG_COLUMNS)
        write_csv(data / "log_random_4_22_to_5_08_pure.csv", after, names=LOG_COLUMNS)
        write_csv(data / "user_features_pure.csv", self.users)
        write_csv(data / "video_features_basic_pure.csv", self.items)
        write_csv(data / "video_features_statistic_pure.csv", [{"video_id": 10, "show_cnt": 1}])
        return folder

    def write_parquet(self, folder: Path) -> Path:
        """Write the subset's layout: rows before 25 April lose their time, tab and click."""
        folder.mkdir(parents=True)
        timed = [row for row in self.log if row["date"] >= 20220425]
        write_table(folder / "interactions_0425_0503.parquet", timed, without=("is_rand",))
        earlier = sorted(
            (row for row in self.log if row["date"] < 20220425), key=lambda row: row["time_ms"]
        )
        history = [
            {name: row[name] for name in ("user_id", "video_id", "long_view", "is_like")}
            | {"pos": position}
            for position, row in enumerate(earlier)
        ]
        np.random.default_rng(2).shuffle(history)
        write_table(folder / "history_0408_0424_last50.parquet", history)
        write_table(folder / "users.parquet", self.users)
        write_table(folder / "items.parquet", self.items)
        return folder


def write_csv(path: Path, rows: list, *, names=None) -> None:
    """Write rows as the public files are: codes beside gaps end in ``.0``."""
    names = list(names or rows[0])
    gappy = {
        name for name in names if any(row[name] is None for row in rows) and name != "author_id"
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            writer.writerow([_text(row[name], gappy=name in gappy) for name in names])


def _text(value: object, *, gappy: bool) -> object:
    if value is None:
        return ""
    return float(value) if gappy and isinstance(value, int) else value


def write_table(path: Path, rows: list, *, without=()) -> None:
    table = pa.Table.from_pylist(rows).drop_columns(list(without))
    for place, kept in enumerate(table.schema):
        if kept.name.startswith("onehot") or kept.name == "music_type":
            table = table.set_column(place, kept.name, table[kept.name].cast(pa.float64()))
        elif pa.types.is_string(kept.type):
            table = table.set_column(place, kept.name, table[kept.name].cast(pa.large_string()))
    pq.write_table(table, path)


def read_days(dataset: Path) -> dict[int, pa.Table]:
    """Return the tables of a dataset by day."""
    days = sorted(dataset.glob("day=*"))
    return {int(day.name[4:]): ds.dataset(sorted(day.glob("*.parquet"))).to_table() for day in days}


def read_rows(dataset: Path) -> list[dict]:
    """Return every row of a dataset, in row order, with its ``day``."""
    return [
        row | {"day": day} for day, table in read_days(dataset).items() for row in table.to_pylist()
    ]
