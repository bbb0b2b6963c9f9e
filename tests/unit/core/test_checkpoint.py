"""Checkpoints are whole or invisible, on any number of ranks, and every fault is one sentence."""

import os
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from lfm4ads.core.checkpoint import (
    check_checkpoint,
    complete_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from lfm4ads.core.errors import UserError
from tests.gloo import _CONTEXT as SPAWN
from tests.gloo import run_ranks
from tests.unit.data.states import one_rank

META = {"step": 7, "state": {"day": 20260101, "best": None}}


def state_of(seed):
    drawn = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "weight": torch.randn(8, 3, generator=drawn),
            "bias": torch.randn(3, generator=drawn, dtype=torch.float64),
        },
        "dense": {"weight": {"step": torch.tensor(float(seed))}},
    }


def zeros_like(state):
    return {
        name: zeros_like(value) if isinstance(value, dict) else torch.zeros_like(value)
        for name, value in state.items()
    }


def flat(state):
    return [
        tensor
        for value in state.values()
        for tensor in (flat(value) if isinstance(value, dict) else [value])
    ]


def assert_holds(folder, state, *, meta=META):
    target = zeros_like(state)
    assert load_checkpoint(folder, target, ranks=one_rank()) == meta
    for read, written in zip(flat(target), flat(state), strict=True):
        assert torch.equal(read, written)


def save(folder, seed=1, *, meta=META):
    state = state_of(seed)
    save_checkpoint(folder, state, meta=meta, ranks=one_rank())
    return state


def refused(folder, state=None):
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder, zeros_like(state or state_of(1)), ranks=one_rank())
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_round_trip(tmp_path):
    folder = tmp_path / "checkpoints" / "day=20260101"
    state = save(folder)
    assert_holds(folder, state)
    assert check_checkpoint(folder) == META
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_part_of_it_can_be_read(tmp_path):
    state = save(tmp_path / "one")
    target = {"model": {"bias": torch.zeros(3, dtype=torch.float64)}}
    load_checkpoint(tmp_path / "one", target, ranks=one_rank())
    assert torch.equal(target["model"]["bias"], state["model"]["bias"])


def test_a_former_checkpoint_is_replaced(tmp_path):
    folder = tmp_path / "last"
    save(folder, 1)
    state = save(folder, 2, meta={"step": 8})
    assert_holds(folder, state, meta={"step": 8})
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@contextmanager
def small_disk(size):
    """Let no file of this process grow beyond ``size`` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_dies_leaves_the_former_checkpoint(tmp_path):
    folder = tmp_path / "last"
    state = save(folder)
    large = {"model": {"weight": torch.ones(300_000)}}
    with pytest.raises(UserError) as caught, small_disk(100_000):
        save_checkpoint(folder, large, meta=META, ranks=one_rank())
    assert str(caught.value).startswith(f"{folder}: the checkpoint could not be written (")
    assert str(caught.value).endswith("; free disk space")
    unwritable = {"model": {"weight": torch.ones(2)}, "loop": {"seed": (n for n in (1, 2))}}
    with pytest.raises(UserError, match=r"last: the checkpoint could not be written .*generator"):
        save_checkpoint(folder, unwritable, meta=META, ranks=one_rank())
    with pytest.raises(TypeError):
        save_checkpoint(folder, state_of(3), meta={"bad": object()}, ranks=one_rank())
    assert_holds(folder, state)
    assert complete_checkpoints(tmp_path) == [folder], "what was left half-way is invisible"
    assert_holds(folder, save(folder, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["last"], "and cleared by the next save"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*Not a directory"):
        save(tmp_path / "file" / "last")


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    folder = tmp_path / "last"
    state = save(folder)
    folder.rename(tmp_path / ".last.old")
    shutil.copytree(tmp_path / ".last.old", tmp_path / ".last.tmp")
    assert complete_checkpoints(tmp_path) == [tmp_path / ".last.old"]
    assert_holds(tmp_path / ".last.old", state)
    with pytest.raises(UserError), small_disk(1_000):
        save(folder, 2)
    assert_holds(tmp_path / ".last.old", state)
    assert_holds(folder, save(folder, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def save_and_die(folder, number):
    """Die without a word before the ``number``-th time that ``folder`` or its former is touched."""
    touched = []

    def watch(event, arguments):
        paths = {"os.rename": arguments[1:2], "shutil.rmtree": arguments[:1]}.get(event, ())
        touched.extend(path for path in paths if Path(path).name in ("last", ".last.old"))
        if len(touched) == number:
            os._exit(9)

    sys.addaudithook(watch)
    save(folder, 2)


def save_and_die_in_forks(folders):
    for number, folder in folders:
        child = os.fork()
        if not child:
            save_and_die(folder, number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_moment_of_the_replacement_leaves_one(tmp_path):
    """Old removed, old renamed, new renamed, old removed; an orphan starts at the third."""
    folders = []
    for number in (1, 2, 3, 4):
        folders.append((number, tmp_path / f"killed-{number}" / "last"))
        save(folders[-1][1])
    for number in (1, 2):
        folders.append((number, tmp_path / f"orphan-{number}" / "last"))
        save(folders[-1][1])
        folders[-1][1].rename(folders[-1][1].with_name(".last.old"))
    process = SPAWN.Process(target=save_and_die_in_forks, args=(folders,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    for number, folder in folders:
        (found,) = complete_checkpoints(folder.parent)
        new = number == (2 if "orphan" in str(folder) else 4)
        assert_holds(found, state_of(2 if new else 1))
        assert_holds(folder, save(folder, 3))
        assert [path.name for path in folder.parent.iterdir()] == ["last"]


def test_what_a_killed_save_left_does_not_enter_the_next(tmp_path):
    (tmp_path / ".last.tmp").mkdir()
    (tmp_path / ".last.tmp" / "__1_0.distcp").write_bytes(b"of another run")
    assert_holds(tmp_path / "last", save(tmp_path / "last"))
    assert not (tmp_path / "last" / "__1_0.distcp").exists()


def test_without_a_manifest_it_is_invisible(tmp_path):
    for name in ("day=20260102", "day=20260101", "day=20260103"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "day=20260102" / "manifest.json").unlink()
    shutil.copytree(tmp_path / "day=20260103", tmp_path / ".day=20260104.tmp")
    left = [tmp_path / "day=20260101", tmp_path / "day=20260103"]
    assert complete_checkpoints(tmp_path) == left
    assert complete_checkpoints(tmp_path / "absent") == []
    assert "manifest.json does not exist" in refused(tmp_path / "day=20260102")


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "meta.json"])
@pytest.mark.parametrize("fault", ["torn", "gone"])
def test_a_torn_or_missing_file_is_named(tmp_path, name, fault):
    folder = tmp_path / "last"
    save(folder)
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if fault == "torn":
        path.write_bytes(whole[:-1])
    sentence = refused(folder)
    assert sentence == (
        f"{path} is missing or torn; remove {folder} and rerun, or restore it from a copy"
    )
    with pytest.raises(UserError, match="is missing or torn"):
        complete_checkpoints(tmp_path)


def test_bytes_that_are_no_tensor_are_one_sentence(tmp_path):
    save(tmp_path / "last")
    path = tmp_path / "last" / "__0_0.distcp"
    path.write_bytes(bytes(path.stat().st_size))
    refused(tmp_path / "last")


def test_another_model_is_one_sentence(tmp_path):
    save(tmp_path / "last")
    other = state_of(1)
    other["model"]["weight"] = torch.zeros(8, 4)
    sentence = refused(tmp_path / "last", other)
    assert "does not fit the model" in sentence
    assert "model.weight" in sentence
    assert sentence.endswith("use the config that wrote it")
    other = state_of(1)
    other["model"]["extra"] = torch.zeros(2)
    assert "model.extra" in refused(tmp_path / "last", other)


def sharded_state(ranks, state):
    """Return the state with its weight cut over the ranks by rows."""
    mesh = init_device_mesh("cpu", (ranks.world,))
    rows = len(state["model"]["weight"]) // ranks.world
    local = state["model"]["weight"][ranks.rank * rows : (ranks.rank + 1) * rows].clone()
    model = state["model"] | {"weight": DTensor.from_local(local, mesh, [Shard(0)])}
    return state | {"model": model}


def sentence_of(block):
    try:
        block()
    except UserError as error:
        return str(error), error.everywhere
    raise AssertionError("nothing was raised")


def on_two_ranks(ranks, root):
    save_checkpoint(root / "two", sharded_state(ranks, state_of(1)), meta=META, ranks=ranks)
    target = sharded_state(ranks, zeros_like(state_of(1)))
    assert load_checkpoint(root / "one", target, ranks=ranks) == META
    half = state_of(1)["model"]["weight"][4 * ranks.rank : 4 * ranks.rank + 4]
    assert torch.equal(target["model"]["weight"].to_local(), half)
    assert torch.equal(target["model"]["bias"], state_of(1)["model"]["bias"])

    wide = {"model": {"bias": torch.zeros(4, dtype=torch.float64)}}
    sentences = [sentence_of(lambda: load_checkpoint(root / "one", wide, ranks=ranks))]
    torn = root / "torn"
    sentences.append(sentence_of(lambda: load_checkpoint(torn, target, ranks=ranks)))
    mine = sharded_state(ranks, state_of(2))
    if ranks.rank == 1:
        mine["loop"] = {"seed": (n for n in (1, 2))}
    sentences.append(
        sentence_of(lambda: save_checkpoint(root / "two", mine, meta=META, ranks=ranks))
    )
    return sentences


@pytest.mark.multiproc
def test_written_by_two_ranks_read_by_one_and_back(tmp_path):
    save(tmp_path / "one")
    save(tmp_path / "torn")
    (tmp_path / "torn" / "__0_0.distcp").unlink()
    first, second = run_ranks(on_two_ranks, 2, tmp_path)
    assert first == second
    assert all(everywhere for _, everywhere in first)
    assert [sentence.count(str(tmp_path)) > 0 for sentence, _ in first] == [True] * 3
    assert_holds(tmp_path / "two", state_of(1))
    assert len(list((tmp_path / "two").glob("__1_*.distcp"))) == 1
    (tmp_path / "two" / "__1_0.distcp").unlink()
    assert "__1_0.distcp is missing or torn" in refused(tmp_path / "two")
