"""Representations reach the rows whose keys they are of, and never from the day itself or later."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.attach import KeptTables, Reps, RepsReader, all_representations, resolve_version
from lfm4ads.data.index import open_dataset
from lfm4ads.data.latest import fold_latest
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.reps import write_snapshot
from lfm4ads.data.side import SideStates
from lfm4ads.data.sums import fold_events
from tests.gloo import run_ranks
from tests.unit.data.states import header, one_rank
from tests.worlds import tiny_table, with_column, with_value, write_table, write_tiny

SPECS = (
    RepSpec(name="ur", side="user", kind="latest", dim=3, read="sum"),
    RepSpec(name="cr", side="user", kind="decayed", dim=2, read="sum"),
    RepSpec(name="ir", side="item", kind="latest", dim=2, read="sum"),
)
ALL = ("user.ur", "user.cr", "item.ir")
LARGE = [2**53 + 1, 2**63 - 1]
AS_OF = (20251231, 20260101, 20260103)
SEEN = {20260101: 20251231, 20260102: 20260101, 20260103: 20260101}
"""The newest snapshot strictly before each day of samples."""


def known_keys(name):
    """Return keys with a vector, some of no row and some rows' keys without one."""
    users = [*range(0, 60, 2), *LARGE[:1]]
    return {"ur": users, "cr": [*range(0, 40, 3), *LARGE], "ir": [*range(5, 90), *LARGE]}[name]


def vector(name, key, *, as_of, version="a1"):
    """Return what a key has in a snapshot; every number of it is exact in float32."""
    mark = as_of % 10_000 + (0.5 if version == "b2" else 0.0)
    return [key % 1000 + 0.25, mark, -1.0][: next(s.dim for s in SPECS if s.name == name)]


def write_reps(root, as_of, *, version="a1"):
    def arrays(name):
        keys = np.array(known_keys(name), dtype=np.int64)
        vectors = [vector(name, key, as_of=as_of, version=version) for key in keys.tolist()]
        return keys, np.array(vectors, dtype=np.float32), np.full(len(keys), 7)

    def latest(name):
        keys, vectors, times = arrays(name)
        return {name: fold_latest(keys, vectors, times, ties=times)}

    keys, vectors, times = arrays("cr")
    counts = fold_events(keys, vectors[:, :0], times, half_life=None)
    decayed = {"cr": fold_events(keys, vectors, times, half_life=None)}
    states = {
        "user": SideStates(counts=counts, decayed=decayed, latest=latest("ur")),
        "item": SideStates(counts=counts, decayed={}, latest=latest("ir")),
    }
    about = header(as_of, upstream=version, specs=SPECS)
    write_snapshot(one_rank(), root, header=about, states=states)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("attach"), days=3, rows=150)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reps")
    for as_of in AS_OF:
        write_reps(folder, as_of)
    return folder


def reps_of(root, *, names=ALL, version="a1", reference=0):
    return Reps(root=root, version=version, names=names, reference=reference)


def reader_of(data, reps, *, ranks=None, kept=None):
    ranks = ranks or one_rank()
    config = ReaderConfig(batch_size=32, lanes=4, window_rows=16)
    reader = Reader(open_dataset(data, ranks), config=config, ranks=ranks, seed=3)
    return RepsReader(reader, reps, ranks=ranks, kept=kept)


def assert_batch(batch, *, as_of, names=ALL):
    """Compare every row with a look-up in a dict."""
    assert set(batch.reps) == set(batch.present) == set(names)
    for full in names:
        side, name = full.split(".")
        known = {key: vector(name, key, as_of=as_of) for key in known_keys(name)}
        keys = getattr(batch, side).tolist()
        rows = [
            key in known and valid for key, valid in zip(keys, batch.valid.tolist(), strict=True)
        ]
        assert batch.present[full].dtype == batch.reps[full].dtype == torch.float32
        assert batch.present[full].tolist() == rows
        nothing = [0.0] * batch.reps[full].shape[1]
        expected = [known[key] if row else nothing for key, row in zip(keys, rows, strict=True)]
        assert batch.reps[full].tolist() == expected


@pytest.mark.parametrize("day", SEEN)
def test_rows_have_the_vectors_of_their_keys_as_of_a_day_before(data, root, day):
    reader = reader_of(data, reps_of(root))
    batches = list(reader.day(day))
    assert len(batches) == reader.num_steps(day) == 5
    for batch in batches:
        assert_batch(batch, as_of=SEEN[day])
    for full in ALL:
        present = torch.cat([batch.present[full][batch.valid] for batch in batches])
        assert 0 < present.mean() < 1, "some keys are known and some are not"


def test_nothing_of_the_day_itself_enters(data, root):
    """Every vector carries the day it is of."""
    for day, seen in SEEN.items():
        marks = {
            mark
            for batch in reader_of(data, reps_of(root)).day(day)
            for mark in batch.reps["item.ir"][batch.present["item.ir"] > 0, 1].tolist()
        }
        assert marks == {float(seen % 10_000)}
        assert seen == max(as_of for as_of in AS_OF if as_of < day)


def test_padding_has_no_representation(data, root):
    *_, last = reader_of(data, reps_of(root)).day(20260101)
    assert not last.valid.all()
    assert 0 in known_keys("ur"), "the key that padding holds is a user's too"
    padded = ~last.valid
    for full in ALL:
        assert not last.present[full][padded].any()
        assert not last.reps[full][padded].any()


def test_only_what_is_named_is_read(data, root):
    for names in (("item.ir",), ("user.cr",), ("user.cr", "item.ir")):
        for batch in reader_of(data, reps_of(root, names=names)).day(20260102):
            assert_batch(batch, as_of=SEEN[20260102], names=names)


@pytest.mark.parametrize("reps", [None, Reps(root=None, version="a1", names=())])
def test_without_representations_batches_are_as_they_were(data, reps):
    reader = reader_of(data, reps)
    batches = list(reader.day(20260101, epoch=1))
    assert all(batch.reps == batch.present == {} for batch in batches)
    plain = reader._reader.day(20260101, epoch=1)
    assert [one.row_id.tolist() for one in batches] == [one.row_id.tolist() for one in plain]


def test_the_epoch_is_passed_on(data, root):
    reader = reader_of(data, reps_of(root))
    orders = [[one.row_id.tolist() for one in reader.day(20260101, epoch=e)] for e in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_large_keys_find_their_own(tmp_path, root):
    keys = [*LARGE, 2**53, 2**53 + 2, 2**63 - 2, 4]
    table = with_column(tiny_table(6), "user_id", keys, "int64")
    write_table(tmp_path, with_column(table, "item_id", keys, "int64"))
    (batch,) = reader_of(tmp_path, reps_of(root)).day(20260101)
    assert_batch(batch, as_of=20251231)
    found = dict(zip(batch.user.tolist(), batch.present["user.cr"].tolist(), strict=True))
    assert [found[key] for key in keys] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_keys_of_which_none_is_known(tmp_path, root):
    write_table(tmp_path, with_column(tiny_table(6), "user_id", [91, 93, 95, 97, 99, 101]))
    (batch,) = reader_of(tmp_path, reps_of(root)).day(20260101)
    assert_batch(batch, as_of=20251231)
    assert not batch.present["user.ur"].any()


def test_vectors_of_every_day_on_the_scale_of_one(data, root):
    """Two dimensions spread over keys and days; the one in which all keys agree is only moved."""
    reference, day = 20260101, 20260103
    reader = reader_of(data, reps_of(root, reference=reference))
    for batch in reader.day(reference):
        assert_batch(batch, as_of=SEEN[reference])
    for full in ALL:
        name = full.split(".")[1]
        own, wanted = (
            np.array([vector(name, key, as_of=SEEN[one]) for key in known_keys(name)])
            for one in (day, reference)
        )
        spread = [np.where(of.std(0) > 0, of.std(0), 1.0) for of in (own, wanted)]
        for batch in reader.day(day):
            keys = (batch.user if full.startswith("user") else batch.item).tolist()
            present = batch.present[full].bool()
            assert present.tolist() == [
                key in known_keys(name) and valid
                for key, valid in zip(keys, batch.valid.tolist(), strict=True)
            ]
            rows = [vector(name, key, as_of=SEEN[day]) for key in np.array(keys)[present].tolist()]
            expected = (np.array(rows) - own.mean(0)) / spread[0] * spread[1] + wanted.mean(0)
            np.testing.assert_allclose(batch.reps[full][present], expected, rtol=1e-5)
            assert not batch.reps[full][~present].any()


def test_a_later_epoch_reads_the_same(data, root):
    reader = reader_of(data, reps_of(root))
    for day in (*SEEN, *SEEN):
        for batch in reader.day(day, epoch=2):
            assert_batch(batch, as_of=SEEN[day])


def refusal(ask):
    with pytest.raises(UserError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_day_before_every_snapshot(data, root):
    assert "has no snapshot of upstream a1 before 20251231" in refusal(
        lambda: reps_of(root).before(20251231)
    )
    sentence = refusal(lambda: next(reader_of(data, reps_of(root / "absent")).day(20260101)))
    assert sentence.endswith("run dump for an earlier day")


def test_another_version(root):
    sentence = refusal(lambda: reps_of(root, version="zz").before(20260101))
    assert "has no snapshot of upstream zz before 20260101" in sentence
    assert "versions ['a1']" in sentence


def test_a_representation_that_is_not_there(data, root):
    reps = reps_of(root, names=("user.ur", "user.x"))
    words = f"{root} has no representation user.x; it has item.ir, user.cr, user.ur"
    assert refusal(lambda: reps.dims(20260102)) == words
    assert "not x" in refusal(lambda: next(reader_of(data, reps).day(20260102)))


def test_widths_and_names(root):
    assert reps_of(root).dims(20260102) == {"user.ur": 3, "user.cr": 2, "item.ir": 2}
    assert reps_of(root, names=("item.ir",)).dims(20260102) == {"item.ir": 2}
    assert set(all_representations(root, version="a1", day=20260102)) == set(ALL)


def test_which_version_is_read(tmp_path, root):
    assert resolve_version(root, "") == "a1"
    assert resolve_version(root, "a1") == "a1"
    assert refusal(lambda: resolve_version(tmp_path, "")) == (
        f"{tmp_path} holds 0 upstream versions (none); run dump first"
    )
    for version in ("a1", "b2"):
        write_reps(tmp_path, 20260101, version=version)
    assert resolve_version(tmp_path, "b2") == "b2"
    assert refusal(lambda: resolve_version(tmp_path, "")) == (
        f"{tmp_path} holds 2 upstream versions (a1, b2); pass input.upstream=<version>"
        " to choose one"
    )
    marks = [
        reps_of(tmp_path, version=v).before(20260102).lookup("item", ["ir"], np.array([5]))
        for v in ("a1", "b2")
    ]
    assert [one.values["ir"][0, 1] for one in marks] == [101.0, 101.5]


def on_two_ranks(ranks, data, root, damaged, bad_row):
    rows = []
    for day, as_of in SEEN.items():
        for batch in reader_of(data, reps_of(root), ranks=ranks).day(day):
            assert_batch(batch, as_of=as_of)
            rows += batch.row_id[batch.valid].tolist()
    sentences = [
        refusal(lambda reps=reps: next(reader_of(data, reps, ranks=ranks).day(20260101)))
        for reps in (
            reps_of(root, version="zz"),
            reps_of(root, names=("user.x",)),
            reps_of(damaged),
        )
    ]
    # Only rank 1 reads the last row group, and rank 0 must not go on alone.
    reader = reader_of(bad_row, reps_of(root), ranks=ranks)
    sentences.append(refusal(lambda: next(reader.day(20260101))))
    return rows, sentences


@pytest.mark.multiproc
def test_two_ranks_read_the_same_and_fail_together(tmp_path, data, root):
    write_reps(tmp_path, 20251231)
    part = tmp_path / "upstream=a1" / "as_of=20251231" / "item" / "part-00000.parquet"
    part.write_bytes(bytes(part.stat().st_size))
    bad_row = with_value(tiny_table(150), "user_id", -8, row=149)
    file = write_table(tmp_path / "bad_row", bad_row, row_group_rows=10)
    (rows, sentences), (other_rows, other_sentences) = run_ranks(
        on_two_ranks, 2, data, root, tmp_path, tmp_path / "bad_row"
    )
    assert sorted(rows + other_rows) == list(range(450))
    assert sentences == other_sentences
    assert f"{part} cannot be read" in sentences[2]
    assert sentences[3].startswith(f"{file}, row group 14: column user_id has the negative id -8")


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_readers_share_what_was_read_and_each_gets_its_own(data, root, monkeypatch, limit):
    asked = []
    load = Reps.tables

    def note(self, day, keys):
        asked.append((day, self.names))
        return load(self, day, keys)

    monkeypatch.setattr(Reps, "tables", note)
    kept = KeptTables(limit_bytes=limit)
    day = 20260102
    for names in (("user.ur",), ("user.ur", "user.cr"), ("item.ir",), ALL, ()):
        reader = reader_of(data, reps_of(root, names=names), kept=kept)
        for batch in reader.day(day):
            assert_batch(batch, as_of=SEEN[day], names=names)
    new = [("user.ur",), ("user.cr",), ("item.ir",)]
    every = [("user.ur",), ("user.ur", "user.cr"), ("item.ir",), ALL]
    assert [names for _, names in asked] == (new if limit else every)
