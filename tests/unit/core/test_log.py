"""Figures of a run as lines of JSON and for TensorBoard, which a resumed run continues."""

import json
import logging
import math
import warnings

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from lfm4ads.core.log import MetricsLog, log, open_log
from tests.unit.data.states import one_rank


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(folder):
    """Return (tag, step, value) as TensorBoard reads them, which checks every checksum."""
    (path,) = (folder / "tensorboard").iterdir()
    return [
        (value.tag, event.step, make_ndarray(value.tensor).item())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def test_a_line_has_step_split_name_value_and_unit(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    metrics = MetricsLog(path, ranks=one_rank())
    assert path.read_text() == "", "a run that dies before its first figure has a file too"
    metrics.write("loss", 0.25, step=3, split="train", unit="nats")
    metrics.write("auc", math.nan, step=4, split="valid")
    metrics.write("auc", None, step=4, split="valid")
    metrics.write("auc", math.inf, step=4, split="valid")
    undefined = {"step": 4, "split": "valid", "name": "auc", "value": None, "unit": ""}
    first = {"step": 3, "split": "train", "name": "loss", "value": 0.25, "unit": "nats"}
    assert lines(path) == [first, undefined, undefined, undefined]


def test_tensorboard_reads_every_figure(tmp_path):
    metrics = MetricsLog(tmp_path / "metrics.jsonl", ranks=one_rank())
    assert scalars(tmp_path) == [], "a run that has no figure yet can be shown too"
    metrics.write("loss", 0.25, step=300, split="train", unit="nats")
    metrics.write("auc/Zürich", -1e-3, step=2**40, split="prequential:20260103")
    metrics.write("auc", None, step=0, split="valid")
    found = scalars(tmp_path)
    assert found[0] == ("train/loss", 300, 0.25)
    assert found[1] == ("prequential/auc/Zürich", 2**40, pytest.approx(-1e-3))
    assert found[2][:2] == ("valid/auc", 0)
    assert math.isnan(found[2][2])


def test_days_of_one_step_do_not_contradict_each_other(tmp_path):
    metrics = MetricsLog(tmp_path / "metrics.jsonl", ranks=one_rank())
    for step, day in ((1, 20260101), (2, 20260102), (2, 20260103)):
        metrics.write("auc", 0.5, step=step, split=f"valid:{day}")
    tags = [(tag, step) for tag, step, _ in scalars(tmp_path)]
    assert tags == [("valid/auc", 1), ("valid/auc", 2), ("valid:20260103/auc", 2)]


def test_a_resumed_run_leaves_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, ranks=one_rank())
    for step in (1, 2, 3, 4):
        first.write("loss", step, step=step, split="train")
    second = MetricsLog(path, ranks=one_rank(), keep_steps=2)
    second.write("loss", 2.5, step=2, split="train")
    for step in (3, 4):
        second.write("loss", 10 * step, step=step, split="train")
    wanted = [("train/loss", step, value) for step, value in ((1, 1), (2, 2), (3, 30), (4, 40))]
    assert scalars(tmp_path) == wanted
    assert [(line["step"], line["value"]) for line in lines(path)] == [w[1:] for w in wanted]
    MetricsLog(path, ranks=one_rank())
    assert scalars(tmp_path) == [], "a run that starts anew has nothing of the former one"


@pytest.mark.parametrize(("keep", "left"), [(0, []), (2, [0, 1, 2, 2]), (9, [0, 1, 2, 2, 3, 4])])
def test_a_resumed_run_keeps_the_steps_it_had_saved(tmp_path, keep, left):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, ranks=one_rank())
    for step in (0, 1, 2, 2, 3, 4):
        first.write("loss", 1.0, step=step, split="train")
    second = MetricsLog(path, ranks=one_rank(), keep_steps=keep)
    assert [line["step"] for line in lines(path)] == left
    second.write("loss", 2.0, step=keep + 1, split="train")
    assert [line["step"] for line in lines(path)] == [*left, keep + 1]


def test_a_line_torn_by_a_full_disk_does_not_stop_the_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, ranks=one_rank())
    for step in (1, 2, 3):
        first.write("loss", 1.0, step=step, split="train")
    path.write_text(path.read_text()[:-20])
    MetricsLog(path, ranks=one_rank(), keep_steps=3)
    assert [line["step"] for line in lines(path)] == [1, 2]


def test_only_the_first_rank_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, ranks=one_rank(0, 2)).write("loss", 1.0, step=1, split="train")
    MetricsLog(path, ranks=one_rank(1, 2)).write("loss", 2.0, step=1, split="train")
    assert [line["value"] for line in lines(path)] == [1.0]
    assert scalars(tmp_path) == [("train/loss", 1, 1.0)]


@pytest.mark.parametrize(("rank", "heard"), [(0, ["news", "trouble"]), (1, ["trouble"])])
def test_other_ranks_speak_only_of_trouble(rank, heard, capsys):
    handlers, level, propagate = log.handlers, log.level, log.propagate
    try:
        open_log(one_rank(rank, 2))
        open_log(one_rank(rank, 2))
        log.info("news")
        log.warning("trouble")
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
        for name in ("torchrec", "torch.fx", "torch.distributed"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    printed = capsys.readouterr()
    assert [line.split()[-1] for line in printed.err.splitlines()] == heard
    assert printed.out == ""


def test_only_the_known_words_of_libraries_go_unheard(recwarn):
    open_log(one_rank())
    said = [
        ("`broadcast_buffers` is deprecated. Use", "torchrec.distributed.model_parallel"),
        ("Please use DTensor instead and we are deprecating ShardedTensor.", "torch.distributed.a"),
        ("`broadcast_buffers` is deprecated. Use", "lfm4ads.shard.sharded"),
        ("something new", "torch.distributed.a"),
    ]
    for words, module in said:
        warnings.warn_explicit(words, FutureWarning, f"{module}.py", 1, module=module)
    assert [one.filename for one in recwarn] == [
        "lfm4ads.shard.sharded.py",
        "torch.distributed.a.py",
    ]


def test_figures_that_are_defined_can_be_read_again(tmp_path):
    metrics = MetricsLog(tmp_path / "metrics.jsonl", ranks=one_rank())
    assert metrics.values("rate") == []
    for step, value in enumerate((3.0, None, 5.0)):
        metrics.write("rate", value, step=step, split="train")
        metrics.write("loss", 1.0, step=step, split="train")
    assert metrics.values("rate") == [3.0, 5.0]
