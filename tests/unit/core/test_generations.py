"""The newest checkpoint that can be trusted is found, whatever was killed, torn or flipped."""

import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem

from lfm4ads.core.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint
from lfm4ads.core.errors import UserError
from lfm4ads.core.generations import keep_newest, newest_checkpoint
from lfm4ads.core.log import log
from tests.gloo import _CONTEXT as SPAWN
from tests.unit.data.states import one_rank

pytestmark = pytest.mark.timeout(310)
NAMES = ("day=20260101", "previous", "last")
FILES = ("__0_0.distcp", ".metadata", "meta.json", "tables.json", "manifest.json")


def save(folder, step):
    """Write a checkpoint whose tensors and position say the same step."""
    state = {"model": {"weight": torch.full((40, 4), float(step)), "bias": torch.arange(3) + step}}
    former = "previous" if folder.name == "last" else ""
    meta = {"position": step, "upstream": "x"}
    notes = {"tables.json": {"weight": [4]}}
    save_checkpoint(folder, state, meta=meta, ranks=one_rank(), notes=notes, former=former)


def held(folder):
    """Return the step of meta and tensors, which must agree."""
    state = {"model": {"weight": torch.zeros(40, 4), "bias": torch.zeros(3, dtype=torch.int64)}}
    step = load_checkpoint(folder, state, ranks=one_rank())["position"]
    assert torch.equal(state["model"]["weight"], torch.full((40, 4), float(step)))
    assert torch.equal(state["model"]["bias"], torch.arange(3) + step)
    return step


def newest(root, *, needs=lambda _: ""):
    return newest_checkpoint(
        root,
        ranks=one_rank(),
        progress=lambda meta: (meta["position"],),
        needs=needs,
        rolling=("last", "previous"),
    )


@pytest.fixture
def said(monkeypatch):
    """What is logged as a warning."""
    lines = []
    monkeypatch.setattr(log, "warning", lambda words, *rest: lines.append(words % rest))
    return lines


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "checkpoints"
    for step, name in ((1, "day=20260101"), (2, "last"), (3, "last")):
        save(root / name, step)
    return root


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "checkpoints")


def test_two_generations_stand(root, said):
    assert [held(root / name) for name in NAMES] == [1, 2, 3]
    assert newest(root) == (root / "last", {"position": 3, "upstream": "x"})
    assert said == []


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[int(at * (len(raw) - 1))] ^= 4
    path.write_bytes(raw)


def cut(path, to):
    path.write_bytes(path.read_bytes()[: int(to * path.stat().st_size)])


FAULTS = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: cut(path, 0),
    "half": lambda path: cut(path, 0.5),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" x"),
    "first bit": lambda path: flip(path, 0),
    "middle bit": lambda path: flip(path, 0.5),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_newest_is_skipped_with_its_reason(root, said, name, fault):
    FAULTS[fault](root / "last" / name)
    assert newest(root) == (root / "previous", {"position": 2, "upstream": "x"})
    assert held(root / "previous") == 2
    (sentence,) = said
    assert "skipped" in sentence
    # A flipped digit of a digest is a fault of the seal that shows in another file.
    assert str(root / "last") in sentence
    if name != "manifest.json":
        assert name in sentence
    # The broken one may not take the place of its good predecessor.
    save(root / "last", 4)
    assert [held(root / one) for one in ("last", "previous")] == [4, 2]


def test_every_bit_of_a_file_of_tensors_counts(template, tmp_path, said):
    """Also those that no tensor is read from."""
    root = tmp_path / "run"
    for at in (0.1, 0.3, 0.7, 0.99):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        flip(root / "last" / "__0_0.distcp", at)
        assert newest(root)[0] == root / "previous"
    assert len(said) == 4


def test_the_one_before_the_one_before(root, said):
    flip(root / "last" / "__0_0.distcp", 0.5)
    cut(root / "previous" / ".metadata", 0.5)
    assert newest(root)[0] == root / "day=20260101"
    assert len(said) == 2


def test_a_reader_of_days_refuses_a_torn_day_alone(root):
    cut(root / "last" / "meta.json", 0.5)
    day = root / "day=20260101"
    assert complete_checkpoints(root, pattern="day=*") == [day]
    flip(day / "__0_0.distcp", 0.5)
    with pytest.raises(UserError, match=r"__0_0\.distcp does not hold the bytes"):
        held(day)
    cut(day / "__0_0.distcp", 0.5)
    with pytest.raises(UserError, match=r"__0_0\.distcp is missing or torn"):
        complete_checkpoints(root, pattern="day=*")


def test_nothing_left_is_an_error_and_not_a_fresh_start(root, said):
    for name in NAMES:
        flip(root / name / "__0_0.distcp", 0.5)
    for _ in range(2):  # as a scheduler would try again
        with pytest.raises(UserError, match="holds no complete checkpoint") as caught:
            newest(root)
        for name in NAMES:
            assert f"{name}/__0_0.distcp does not hold the bytes" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(said) == 6


def test_where_there_never_was_one_a_run_starts_afresh(tmp_path, said):
    assert newest(tmp_path / "absent") is None
    save(tmp_path / "made", 1)
    (tmp_path / "made").rename(tmp_path / ".last.tmp")
    assert newest(tmp_path) is None
    assert said == [f"skipped {tmp_path / '.last.tmp'}: its writing was cut short"]


def test_one_that_needs_another_falls_with_it(root, said):
    def needs(meta):
        return "best" if meta["position"] > 1 else ""

    assert newest(root, needs=needs)[0] == root / "day=20260101"
    assert all("best" in line for line in said)
    save(root / "best", 1)
    assert newest(root, needs=needs)[0] == root / "last"


def test_a_replacement_killed_between_its_renames_is_finished(root, said):
    (root / "day=20260101").rename(root / ".day=20260101.old")
    for name in ("last", "previous"):
        shutil.rmtree(root / name)
    assert newest(root)[0] == root / "day=20260101"
    assert said == []


def test_the_newest_of_a_pattern_stay(root):
    for day in (20260103, 20260102):
        save(root / f"day={day}", 1)
    keep_newest(root, pattern="day=*", count=2)
    assert sorted(one.name for one in root.iterdir()) == [
        "day=20260102", "day=20260103", "last", "previous",
    ]  # fmt: skip


EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class Bomb:
    """Ends the process before its n-th touch of the disk under a folder; counts from one."""

    def __init__(self, root, number):
        self.root, self.number, self.count = str(root), number, 0
        sys.addaudithook(self.watch)
        sync, FileSystem.create_stream = os.fsync, self.create_stream

        def counted(handle):
            self.tick()
            sync(handle)

        os.fsync = counted

    def tick(self):
        self.count += 1
        if self.count == self.number:
            os._exit(9)

    def watch(self, event, arguments):
        if event in EVENTS and self.root in str(arguments[0]):
            self.tick()

    @contextmanager
    def create_stream(self, path, mode):
        with Path(path).open(mode) as stream:
            yield CountedStream(stream, self.tick) if "w" in mode else stream


class CountedStream:
    """A stream each of whose writes may be the last, half of it on the disk."""

    def __init__(self, stream, tick):
        self.stream, self.tick = stream, tick

    def write(self, raw):
        raw = memoryview(raw).cast("B")
        self.stream.write(raw[: len(raw) // 2])
        self.stream.flush()
        self.tick()
        return len(raw) // 2 + self.stream.write(raw[len(raw) // 2 :])

    def __getattr__(self, name):
        return getattr(self.stream, name)


def walk(template, out, base, stride):
    """Kill a save at its touches of the disk in turn; write down what is found then."""
    sentences, found = [], []
    log.warning = lambda words, *rest: sentences.append(words % rest)
    for number in range(1, 10_000, stride):
        root = shutil.copytree(template, base / str(number))
        child = os.fork()
        if not child:
            bomb = Bomb(root, number)
            save(root / "last", 4)
            os._exit(0 if bomb.count < number else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sentences.clear()
        left = sorted(one.name for one in root.iterdir())
        path, meta = newest(root)
        step = held(path)
        save(root / "last", 5)
        clean = sorted(one.name for one in root.iterdir())
        found.append([status, left, meta["position"], step, list(sentences), clean])
        shutil.rmtree(root)
        if status != 9:
            break
    out.write_text(json.dumps(found))


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_leaves_the_newest_complete_one(template, tmp_path, stride):
    out = tmp_path / "found.json"
    process = SPAWN.Process(target=walk, args=(template, out, tmp_path, stride))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = json.loads(out.read_text())
    assert found[-1][0] == 0, "the last save was not killed"
    assert len(found) > 50 / stride, "of three tensors, four more files and the renames"
    steps = [step for _, _, position, step, _, _ in found if position == step]
    assert len(steps) == len(found), "a position that is not that of the weights"
    assert steps == sorted(steps), "what was once complete stays so"
    assert set(steps) == {3, 4}
    for _, left, _, _, sentences, clean in found:
        assert clean == sorted(NAMES)
        cut_short = ".last.tmp" in left
        assert [".last.tmp" in sentence for sentence in sentences] == [True] * cut_short
    assert any(".last.tmp" in left for _, left, *_ in found)
    if stride == 1:
        assert any("last" not in left for _, left, *_ in found), "between the two renames"
