"""A dataset folder appears whole or not at all, and replaces only what it may."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.dataset import DatasetWriter, FileConfig, is_complete
from lfm4ads.data.schema import Feature, Schema, TableSpec, Task, load_schema


@dataclass(frozen=True, kw_only=True)
class Words:
    output: Path
    answer: int = 42


def small_schema(**changes) -> Schema:
    columns = {name: name for name in ("user", "item", "time", "domain", "scenario", "row_id")}
    return Schema(
        version=1,
        name="small",
        domains=("content",),
        scenarios=("feed",),
        tables={"user": TableSpec(rows=8, dim=4)},
        features={"who": Feature(kind="id", side="user", column="user", table="user")},
        tasks={"click": Task(label="click")},
        **(columns | changes),
    )


def rows(first: int, count: int) -> pa.Table:
    ids = list(range(first, first + count))
    names = ("user", "item", "time", "domain", "scenario", "row_id", "click")
    return pa.table(dict.fromkeys(names, ids))


def write(output: Path, *, overwrite: bool = False, count: int = 5) -> Path:
    files = FileConfig(rows_per_file=2, row_group_rows=1)
    with DatasetWriter(output, overwrite=overwrite, files=files) as writer:
        writer.write_day(20260101, rows(0, count))
        writer.write_day(20260101, rows(count, 1))
        writer.write_day(20260102, rows(count + 1, 1))
        writer.write_side_day("oracle", day=20260101, table=rows(0, count))
        return writer.finish(small_schema(), config=Words(output=output))


def test_days_schema_and_manifest_are_written(tmp_path):
    dataset = write(tmp_path / "set")
    parts = sorted((dataset / "day=20260101").iterdir())
    assert [path.name for path in parts] == [f"part-{part:05d}.parquet" for part in range(4)]
    assert [pq.read_metadata(path).num_rows for path in parts] == [2, 2, 1, 1]
    assert [pq.read_metadata(path).num_row_groups for path in parts] == [2, 2, 1, 1]
    read = pa.concat_tables([pq.ParquetFile(path).read() for path in parts])
    assert read["row_id"].to_pylist() == list(range(6))
    assert len(list((dataset / "oracle" / "day=20260101").iterdir())) == 3
    assert load_schema(dataset) == small_schema()
    manifest = json.loads((dataset / "dataset.json").read_text())
    assert manifest["rows"] == 7
    assert manifest["rows_per_day"] == {"20260101": 6, "20260102": 1}
    assert manifest["config"] == {"output": str(dataset), "answer": 42}


def test_nothing_else_is_left_beside_it(tmp_path):
    write(tmp_path / "set")
    write(tmp_path / "set", overwrite=True, count=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["rows"] == 3


def test_a_finished_dataset_is_kept_unless_told(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(UserError, match="already holds a finished dataset"):
        write(tmp_path / "set")
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["rows"] == 7


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a dataset"):
        write(tmp_path / "set", overwrite=overwrite)
    assert (tmp_path / "set" / "thesis.txt").exists()


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "set").mkdir()
    assert is_complete(write(tmp_path / "set"))


def test_an_unfinished_prepare_leaves_the_former_dataset_whole(tmp_path):
    write(tmp_path / "set")
    with DatasetWriter(tmp_path / "set", overwrite=True) as writer:
        writer.write_day(20260101, rows(0, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["rows"] == 7


def test_what_a_killed_prepare_left_is_cleared(tmp_path):
    left = tmp_path / ".set.building" / "day=19990101"
    left.mkdir(parents=True)
    (left / "part-00000.parquet").write_bytes(b"torn")
    dataset = write(tmp_path / "set")
    assert not (dataset / "day=19990101").exists()


def test_two_prepares_of_one_output_do_not_mix(tmp_path):
    with (
        DatasetWriter(tmp_path / "set"),
        pytest.raises(UserError, match="another prepare is writing"),
    ):
        DatasetWriter(tmp_path / "set")


def test_an_unwritable_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        DatasetWriter(tmp_path / "file" / "set")


def test_a_schema_must_name_columns_that_are_there(tmp_path):
    with DatasetWriter(tmp_path / "set") as writer:
        writer.write_day(20260101, rows(0, 1))
        with pytest.raises(ValueError, match=r"columns \['when'\]"):
            writer.finish(small_schema(time="when"), config=Words(output=tmp_path))
    assert not (tmp_path / "set").exists()


def test_days_must_agree_on_columns(tmp_path):
    with DatasetWriter(tmp_path / "set") as writer:
        writer.write_day(20260101, rows(0, 1))
        with pytest.raises(ValueError, match="earlier ones had"):
            writer.write_day(20260102, rows(0, 1).drop_columns(["click"]))
