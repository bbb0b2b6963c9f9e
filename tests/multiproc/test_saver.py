"""A save beside training holds the moment it was asked for, and its faults reach all ranks."""

import resource
import threading

import pytest

from lfm4ads.core.checkpoint import check_checkpoint, complete_checkpoints
from lfm4ads.core.errors import UserError
from lfm4ads.shard import saver as saver_module
from lfm4ads.shard.saver import SaveConfig, Saver
from lfm4ads.shard.state import full_state, load_sharded
from tests.gloo import run_ranks
from tests.multiproc.test_reshard import build, train
from tests.multiproc.weights import differences, tensors_of

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(400)]


def tensors(sharded):
    return tensors_of(full_state(sharded)[0])


def beside_training(ranks, root):
    """Train while a save is held up; return what the checkpoint differs in, from then and now."""
    gate, write = threading.Event(), saver_module.save_checkpoint
    begun = []

    def held_up(folder, *rest, **words):
        begun.append(folder.name)
        assert gate.wait(100)
        write(folder, *rest, **words)

    saver_module.save_checkpoint = held_up
    sharded = build(ranks, place="row_wise", kind="rowwise_adagrad")
    saver = Saver(sharded, config=SaveConfig(asynchronous=True))
    train(sharded, first=0, steps=2)
    then = tensors(sharded)
    saver.save(root / "first", meta={"step": 2})
    train(sharded, first=2, steps=2)
    found = {"visible early": complete_checkpoints(root), "idle early": saver.is_idle}
    ranks.barrier()
    threading.Timer(0.5, gate.set).start()
    saver.save(root / "second", meta={"step": 4})  # waits for the first
    found["visible then"] = [path.name for path in complete_checkpoints(root)]
    now = tensors(sharded)
    saver.close()
    found["begun"] = begun
    other = build(ranks, place="row_wise", kind="rowwise_adagrad", seed=99)
    found["first meta"] = load_sharded(root / "first", other)
    found["first"] = differences(then, tensors(other))
    found["moved"] = len(differences(now, tensors(other))) == len(now)
    found["second meta"] = load_sharded(root / "second", other)
    found["second"] = differences(now, tensors(other))
    return found


def test_a_save_holds_the_moment_it_was_asked_for(tmp_path):
    for found in run_ranks(beside_training, 2, tmp_path, seconds=300):
        assert found["visible early"] == []
        assert not found["idle early"]
        assert found["visible then"][:1] == ["first"]
        assert found["begun"] == ["first", "second"]
        assert found["first meta"] == {"step": 2}
        assert found["first"] == []
        assert found["moved"], "or the copy could be no copy"
        assert found["second meta"] == {"step": 4}
        assert found["second"] == []


def full_disk(ranks, root):
    """Let the disk of one rank be full for one save; return what all ranks say, and when."""
    sharded = build(ranks, place="row_wise", kind="rowwise_adagrad")
    train(sharded, first=0, steps=1)
    said = []
    saver = Saver(sharded, config=SaveConfig(asynchronous=True))
    saver.save(root / "last", meta={"step": 1})
    saver.wait()
    for way in ("save", "wait"):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if ranks.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        saver.save(root / "last", meta={"step": 2})
        train(sharded, first=1, steps=1)
        with pytest.raises(UserError) as caught:
            saver.wait() if way == "wait" else saver.save(root / "last", meta={"step": 3})
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        said.append((str(caught.value), caught.value.everywhere, check_checkpoint(root / "last")))
        ranks.barrier()
    saver.save(root / "last", meta={"step": 4})
    saver.wait()
    saver.close()
    return said, check_checkpoint(root / "last")


def test_a_full_disk_stops_all_ranks_with_one_sentence(tmp_path):
    results = run_ranks(full_disk, 2, tmp_path, seconds=300)
    assert results[0] == results[1]
    said, end = results[0]
    for sentence, everywhere, meta in said:
        assert sentence.startswith(f"{tmp_path / 'last'}: the checkpoint could not be written (")
        assert sentence.endswith("; free disk space")
        assert everywhere
        assert meta == {"step": 1}
    assert end == {"step": 4}
