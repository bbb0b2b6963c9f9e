"""What a damaged download gets to read."""

import csv
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.kuairand.prepare import Config, run
from lfm4ads.core.errors import UserError
from tests.unit.data_kuairand.world import World

AFTER = "data/log_standard_4_22_to_5_08_pure.csv"
USERS = "data/user_features_pure.csv"
ITEMS = "data/video_features_basic_pure.csv"


def rename_column(old, new):
    def mend(path):
        path.write_text(path.read_text().replace(old, new, 1))

    return mend


def set_value(column, value, *, line=3):
    def mend(path):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        rows[line][rows[0].index(column)] = value
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    return mend


def repeat_line(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]) + "\n")


def keep_bytes(share):
    def mend(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return mend


def keep_header(path):
    path.write_text(path.read_text().splitlines()[0] + "\n")


def cut_in_a_row(path):
    path.write_text(path.read_text()[:-30])


def copy_as_1k(path):
    path.with_name("user_features_1k.csv").write_bytes(path.read_bytes())


CSV_FAULTS = [
    (AFTER, rename_column("time_ms", "when"), "has no column time_ms"),
    (AFTER, rename_column("is_click", "clicked"), "has no column is_click"),
    (AFTER, set_value("time_ms", "noon"), "column time_ms must be int64.*noon"),
    (AFTER, set_value("long_view", "0.5"), "column long_view must be int8"),
    (AFTER, set_value("user_id", ""), "column user_id has an empty value"),
    (AFTER, set_value("user_id", "-3"), "column user_id has -3"),
    (AFTER, set_value("is_click", "2"), "column is_click has 2"),
    (AFTER, set_value("is_like", "-1"), "column is_like has -1"),
    (AFTER, set_value("tab", "15"), "column tab has 15"),
    (AFTER, keep_bytes(0), "is empty"),
    (AFTER, keep_header, "holds no rows"),
    (AFTER, cut_in_a_row, "cannot be read.*Expected 19 columns"),
    (AFTER, lambda path: path.unlink(), "holds no log_standard_4_22_to_5_08"),
    (USERS, lambda path: path.unlink(), "exactly one user_features_.*but has none"),
    (USERS, copy_as_1k, "exactly one user_features_.*1k.csv, user_features_pure.csv"),
    (USERS, rename_column("onehot_feat7", "x"), "has no column onehot_feat7"),
    (USERS, set_value("onehot_feat3", "many"), "column onehot_feat3 must be int64.*many"),
    (USERS, set_value("onehot_feat3", "2.5"), "column onehot_feat3 must be int64.*2.5"),
    (USERS, set_value("fans_user_num", "few"), "column fans_user_num must be double"),
    (USERS, repeat_line, "user_id 3 has more than one row"),
    (ITEMS, repeat_line, "video_id 11 has more than one row"),
    (ITEMS, set_value("video_id", ""), "column video_id has an empty value"),
    (ITEMS, set_value("upload_dt", "spring", line=5), "column upload_dt must be date32.*spring"),
    (ITEMS, set_value("tag", "a b", line=5), "column tag must be int64.*a b"),
]


@pytest.mark.parametrize(("name", "mend", "sentence"), CSV_FAULTS)
def test_csv_faults(tmp_path, name, mend, sentence):
    source = World().write_csv(tmp_path / "KuaiRand-Pure")
    mend(source / name)
    with pytest.raises(UserError, match=sentence) as raised:
        run(Config(source=source, output=tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert re.search("KuaiRand-Pure/data", str(raised.value))
    assert not (tmp_path / "out").exists()


PARQUET_FAULTS = [
    ("users.parquet", keep_bytes(0.6), "users.parquet cannot be read"),
    ("items.parquet", keep_bytes(0), "items.parquet cannot be read"),
    ("interactions_0425_0503.parquet", keep_bytes(0.5), "interactions_0425_0503.parquet cannot"),
    ("history_0408_0424_last50.parquet", lambda path: path.unlink(), "exactly one history_"),
    ("users.parquet", lambda path: path.unlink(), "exactly one users.parquet but has none"),
]


@pytest.mark.parametrize(("name", "mend", "sentence"), PARQUET_FAULTS)
def test_parquet_faults(tmp_path, name, mend, sentence):
    source = World().write_parquet(tmp_path / "subset")
    mend(source / name)
    with pytest.raises(UserError, match=sentence):
        run(Config(source=source, output=tmp_path / "out"))


def test_parquet_column_of_another_type(tmp_path):
    source = World().write_parquet(tmp_path / "subset")
    path = source / "history_0408_0424_last50.parquet"
    table = pq.read_table(path)
    wrong = pa.array([["x"]] * len(table))
    pq.write_table(table.drop_columns(["pos"]).append_column("pos", wrong), path)
    with pytest.raises(UserError, match="column pos must be int64"):
        run(Config(source=source, output=tmp_path / "out"))


@pytest.mark.parametrize("exists", [True, False])
def test_no_files_says_where_to_get_them(tmp_path, exists):
    source = tmp_path / "nothing"
    if exists:
        source.mkdir()
    with pytest.raises(UserError, match=r"published at https://kuairand\.com.*source=<folder>"):
        run(Config(source=source, output=tmp_path / "out"))


def test_a_damaged_page_is_told(tmp_path):
    source = World().write_parquet(tmp_path / "subset")
    path = source / "users.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"users\.parquet cannot be read"):
        run(Config(source=source, output=tmp_path / "out"))
