"""A dataset folder is indexed or refused in one sentence, the same on every rank."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import open_dataset, read_row_group, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.train.loop import agreed
from tests.gloo import run_ranks
from tests.unit.data.expected import records_of
from tests.unit.data.states import one_rank
from tests.worlds import tiny_table, with_column, with_value, write_table, write_tiny

DAY = 20260101


def refused(folder):
    with pytest.raises(UserError) as caught:
        open_dataset(folder, one_rank())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_days_row_groups_and_their_last_times(tmp_path):
    dataset = open_dataset(write_tiny(tmp_path, days=3, rows=300), one_rank())
    assert sorted(dataset.days) == [20260101, 20260102, 20260103]
    assert dataset.between(20260101, 20260102) == [20260101, 20260102]
    for day in dataset.days:
        records = records_of(dataset, day)
        assert [group.rows for group in dataset.groups(day)] == [64, 64, 22] * 2
        assert dataset.rows(day) == len(records) == 300
        assert dataset.end_of_day(day) == max(record["time_ms"] for record in records)
        position = 0
        for group in dataset.groups(day):
            times = [one["time_ms"] for one in records[position : position + group.rows]]
            assert group.last_time == max(times)
            position += group.rows


def test_last_times_without_statistics(tmp_path):
    write_table(tmp_path / "with", tiny_table(100))
    write_table(tmp_path / "without", tiny_table(100), write_statistics=False)
    indexed = [open_dataset(tmp_path / name, one_rank()).days for name in ("with", "without")]
    assert indexed[0] == indexed[1]
    table = with_value(tiny_table(100), "time_ms", None, row=70)
    file = write_table(tmp_path / "null", table, write_statistics=False)
    sentence = refused(tmp_path / "null")
    assert sentence.startswith(f"{file}, row group 1: column time_ms has 1 null(s)")


def test_a_row_group_whose_times_are_all_null(tmp_path):
    times = tiny_table(100)["time_ms"].to_pylist()[:64] + [None] * 36
    file = write_table(tmp_path, with_column(tiny_table(100), "time_ms", times, pa.int64()))
    assert refused(tmp_path).startswith(f"{file}, row group 1: column time_ms has 36 null(s)")


def test_nested_columns_do_not_shift_the_time(tmp_path):
    """Parquet counts leaves, so a struct before ``time`` moves its place."""
    table = tiny_table(100)
    places = pa.array([{"x": 1, "y": 2, "z": 3}] * 100)
    write_table(tmp_path, table.add_column(0, "place", places))
    assert open_dataset(tmp_path, one_rank()).end_of_day(DAY) == table["time_ms"][-1].as_py()


def test_a_folder_with_no_files(tmp_path):
    write_table(tmp_path, tiny_table(10)).unlink()
    assert refused(tmp_path) == (
        f"{tmp_path} has no files day=YYYYMMDD/*.parquet;"
        " run 'make prepare' or point data at a prepared dataset"
    )
    (tmp_path / "schema.yaml").unlink()
    assert refused(tmp_path).startswith(f"{tmp_path / 'schema.yaml'} does not exist; run 'make")


@pytest.mark.parametrize("name", ["day=2026-01-02", "day=202601", "day=", "day=2026010a"])
def test_a_misnamed_day(tmp_path, name):
    write_table(tmp_path, tiny_table(10))
    (tmp_path / name).mkdir()
    assert refused(tmp_path) == (
        f"{tmp_path / name} is not named day=YYYYMMDD; rename or remove it"
    )


def test_what_is_not_of_the_dataset_is_left_alone(tmp_path):
    write_table(tmp_path, tiny_table(10))
    (tmp_path / f"day={DAY}" / "_SUCCESS").write_text("")
    (tmp_path / "oracle" / f"day={DAY}").mkdir(parents=True)
    (tmp_path / "day=notes.txt").write_text("")
    assert open_dataset(tmp_path, one_rank()).rows(DAY) == 10


def test_an_empty_file(tmp_path):
    write_table(tmp_path, tiny_table(10))
    file = write_table(tmp_path, tiny_table(10), part=1)
    file.write_bytes(b"")
    assert refused(tmp_path) == f"{file} is empty; write it again with 'make prepare'"


def test_a_file_without_rows(tmp_path):
    file = write_table(tmp_path, tiny_table(10).slice(0, 0))
    assert refused(tmp_path) == (
        f"{file} holds no rows; remove it or write it again with 'make prepare'"
    )


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_a_truncated_file(tmp_path, kept):
    file = write_table(tmp_path, tiny_table(100))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    sentence = refused(tmp_path)
    assert sentence.startswith(f"{file} is not whole Parquet (")
    assert sentence.endswith("; write it again with 'make prepare'")


def test_a_file_that_is_no_parquet(tmp_path):
    file = write_table(tmp_path, tiny_table(100))
    file.write_text("user_id,item_id\n" * 100)
    assert refused(tmp_path).startswith(f"{file} is not whole Parquet (")


def damage(file, *, column, group):
    """Overwrite the middle of one column's pages in one row group."""
    metadata = pq.read_metadata(file).row_group(group)
    chunk = next(
        metadata.column(index)
        for index in range(metadata.num_columns)
        if metadata.column(index).path_in_schema == column
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    whole = bytearray(file.read_bytes())
    third = chunk.total_compressed_size // 3
    whole[start + third : start + 2 * third] = b"\xff" * third
    file.write_bytes(whole)


@pytest.mark.parametrize("column", ["user_id", "domain", "time_ms"])
def test_a_page_damaged_in_the_middle(tmp_path, column):
    file = write_table(tmp_path, tiny_table(100), compression="zstd")
    damage(file, column=column, group=1)
    dataset = open_dataset(tmp_path, one_rank())
    first, second = dataset.groups(DAY)
    assert read_row_group(tmp_path, first, columns=[column]).num_rows == 64
    with pytest.raises(UserError) as caught:
        read_row_group(tmp_path, second, columns=[column])
    assert str(caught.value).startswith(f"{file}, row group 1: cannot be read (")
    assert str(caught.value).endswith("; write the file again with 'make prepare'")


def test_a_file_that_vanished(tmp_path):
    file = write_table(tmp_path, tiny_table(10))
    dataset = open_dataset(tmp_path, one_rank())
    file.unlink()
    with pytest.raises(UserError, match=r"row group 0: cannot be read .*No such file"):
        read_row_group(tmp_path, dataset.groups(DAY)[0], columns=["user_id"])


def test_every_file_is_checked(tmp_path):
    write_table(tmp_path, tiny_table(10))
    file = write_table(tmp_path, tiny_table(10).drop_columns(["hour"]), day=DAY + 1)
    assert refused(tmp_path).startswith(f"{file} has no column hour")


@pytest.mark.parametrize("day", [20251231, 20260104, 0])
def test_a_missing_day(tmp_path, day):
    dataset = open_dataset(write_tiny(tmp_path, days=3, rows=10), one_rank())
    words = f"{tmp_path} has no day {day}; it holds 20260101 to 20260103 (3 days)"
    for ask in (
        lambda: dataset.groups(day),
        lambda: dataset.rows(day),
        lambda: dataset.between(DAY, day),
        lambda: dataset.between(day, DAY),
        lambda: select_rows(dataset, domains=["ads"], days=[DAY, day], ranks=one_rank()),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value) == words


def test_a_hole_between_days(tmp_path):
    write_tiny(tmp_path, days=3, rows=10)
    shutil.rmtree(tmp_path / "day=20260102")
    dataset = open_dataset(tmp_path, one_rank())
    assert dataset.between(DAY, 20260103) == [20260101, 20260103]
    with pytest.raises(UserError, match=r"no day 20260102; it holds 20260101 to 20260103 .2 days"):
        dataset.groups(20260102)


def test_rows_of_domains_are_counted(tmp_path):
    table = with_column(tiny_table(200), "domain", [0] * 70 + [1] * 30 + [0] * 100, "int8")
    write_table(tmp_path, table)
    write_table(tmp_path, tiny_table(10, day=1), day=DAY + 1)
    dataset = open_dataset(tmp_path, one_rank())
    ads = select_rows(dataset, domains=["ads"], days=[DAY], ranks=one_rank())
    assert list(ads.days) == [DAY]
    assert [group.rows for group in ads.groups(DAY)] == [0, 30, 0, 0]
    assert ads.rows(DAY) == 30
    assert ads.domains == (1,)
    assert ads.end_of_day(DAY) == dataset.end_of_day(DAY), "the log was closed for all at once"
    both = select_rows(dataset, domains=["content", "ads"], days=[DAY], ranks=one_rank())
    assert both.rows(DAY) == 200
    with pytest.raises(UserError, match=r"has no domain games; its schema lists content, ads$"):
        select_rows(dataset, domains=["ads", "games"], days=[DAY], ranks=one_rank())


def test_rows_of_scenarios_are_counted(tmp_path):
    write_table(tmp_path, with_column(tiny_table(100), "scenario", [0] * 60 + [1] * 40, "int8"))
    dataset = open_dataset(tmp_path, one_rank())
    name = dataset.schema.scenarios[1]
    for called in (name, "1"):
        one = select_rows(dataset, scenarios=[called], days=[DAY], ranks=one_rank())
        assert one.rows(DAY) == 40
        assert one.scenarios == (1,)
    both = select_rows(dataset, domains=["ads"], scenarios=["1"], days=[DAY], ranks=one_rank())
    assert both.rows(DAY) < 40
    with pytest.raises(UserError, match=r"has no scenario shop; its schema lists "):
        select_rows(dataset, scenarios=["shop"], days=[DAY], ranks=one_rank())


def make_bad(root):
    """Write one dataset per fault."""
    table = tiny_table(200)
    write_table(root / "good", table, row_group_rows=10)
    write_table(root / "column", table.drop_columns(["hour"]))
    write_table(root / "float", with_column(table, "user_id", np.ones(200).tolist()))
    write_table(root / "none", table).unlink()
    write_table(root / "empty", table).write_bytes(b"")
    write_table(root / "day", table).parent.rename(root / "day" / "day=monday")
    damage(
        write_table(root / "page", table, compression="zstd", row_group_rows=100),
        column="domain",
        group=1,
    )
    late = with_value(table, "user_id", -3, row=190)
    write_table(root / "row", late, row_group_rows=10)


def read_day(ranks, dataset):
    config = ReaderConfig(batch_size=20, lanes=2, window_rows=10)
    reader = Reader(dataset, config=config, ranks=ranks, seed=0)
    seen = [row for batch in agreed(reader.day(DAY), ranks=ranks) for row in batch.row_id.tolist()]
    return reader, seen


def on_two_ranks(ranks, root):
    def ads(name):
        dataset = open_dataset(root / name, ranks)
        return select_rows(dataset, domains=["ads"], days=[DAY], ranks=ranks)

    def sentence(ask):
        with pytest.raises(UserError) as caught:
            ask()
        return str(caught.value), caught.value.everywhere

    good = open_dataset(root / "good", ranks)
    sentences = [
        sentence(lambda name=name: open_dataset(root / name, ranks))
        for name in ("absent", "column", "float", "none", "empty", "day")
    ]
    sentences += [
        sentence(lambda: good.groups(DAY + 1)),
        sentence(lambda: select_rows(good, domains=["games"], days=[DAY], ranks=ranks)),
        sentence(lambda: ads("page")),
        sentence(lambda: read_day(ranks, open_dataset(root / "row", ranks))),
    ]
    return good.days, ads("good").days, sentences, read_day(ranks, good)[1]


@pytest.mark.multiproc
def test_faults_are_the_same_on_every_rank(tmp_path):
    make_bad(tmp_path)
    first, second = run_ranks(on_two_ranks, 2, tmp_path)
    assert first[:3] == second[:3]
    good = open_dataset(tmp_path / "good", one_rank())
    ads = select_rows(good, domains=["ads"], days=[DAY], ranks=one_rank())
    assert first[:2] == (good.days, ads.days)
    assert sorted(first[3] + second[3]) == list(range(200))
    part = f"day={DAY}/part-00000.parquet"
    words = [
        "absent/schema.yaml does not exist",
        f"column/{part} has no column hour",
        f"float/{part}: column user_id is double",
        "none has no files",
        f"empty/{part} is empty",
        "day/day=monday is not named",
        "good has no day 20260102",
        "good has no domain games",
        f"page/{part}, row group 1: cannot be read",
        f"row/{part}, row group 19: column user_id has the negative id -3",
    ]
    for (sentence, everywhere), beginning in zip(first[2], words, strict=True):
        assert sentence.startswith(f"{tmp_path}/{beginning}")
        assert everywhere, "one rank printing it is enough"
