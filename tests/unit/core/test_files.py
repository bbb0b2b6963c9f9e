"""Files appear whole or not at all."""

import hashlib
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import (
    prepare_output,
    read_json,
    sha256,
    whole_file,
    write_json,
    write_parquet,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_body_that_raises_leaves_the_former_content(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    write_text(path, "former")

    def fail():
        with whole_file(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "former"
            raise KeyError("died")

    with pytest.raises(KeyError, match="died"):
        fail()
    assert path.read_text() == "former"
    assert names(path.parent) == ["note.txt"]


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "note.txt"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["note.txt"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "note.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_readers_disagree_on(tmp_path, value):
    path = tmp_path / "report.json"
    write_json(path, {"auc": None})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"auc": [value]})
    assert json.loads(path.read_text()) == {"auc": None}


def test_json_round_trip(tmp_path):
    value = {"name": "ünïcode", "days": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_that_is_missing_or_torn_is_one_sentence(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json does not exist; run the stage that writes it"):
        read_json(path)
    for torn in (b'{"a": 1', b"", b"\xff\xfe\x00"):
        path.write_bytes(torn)
        with pytest.raises(UserError, match=r"a\.json is not valid JSON .*; delete it and rerun"):
            read_json(path)


def test_parquet_is_whole_with_row_groups_as_asked(tmp_path):
    table = pa.table({"a": list(range(10))})
    write_parquet(tmp_path / "a.parquet", table, row_group_rows=4)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.read() == table
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [4, 4, 2]
    assert names(tmp_path) == ["a.parquet"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_finished_run_is_kept_unless_told(tmp_path):
    run = tmp_path / "run"
    prepare_output(run, overwrite=False)
    (run / "metrics.jsonl").write_text("{}")
    prepare_output(run, overwrite=False)
    prepare_output(run, overwrite=True)
    assert names(run) == ["metrics.jsonl"], "an unfinished run is what the next one resumes"
    (run / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"run already holds a finished run; .* overwrite=true"):
        prepare_output(run, overwrite=False)
    assert names(run) == ["metrics.jsonl", "report.json"]
    prepare_output(run, overwrite=True)
    assert names(run) == []


def test_which_file_marks_the_end_can_be_told(tmp_path):
    (tmp_path / "done.txt").write_text("")
    prepare_output(tmp_path, overwrite=False)
    with pytest.raises(UserError, match="finished run"):
        prepare_output(tmp_path, overwrite=False, done="done.txt")


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    kernel = Path("/proc/self")  # a folder in which not even root can make a file
    for output in (tmp_path / "file" / "run", tmp_path / "file", kernel):
        with pytest.raises(UserError) as caught:
            prepare_output(output, overwrite=True)
        assert str(caught.value).startswith(f"output {output} cannot be written: ")
        assert str(caught.value).endswith("; choose another folder")
    assert (tmp_path / "file").is_file()
