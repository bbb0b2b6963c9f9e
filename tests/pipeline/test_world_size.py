"""One, two and four ranks: the same model, the same representations, the same test figures."""

from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.conftest import tell_full
from tests.pipeline.jobs import SECONDS, run_jobs, tensors_of
from tests.pipeline.read import SIDES, column, predictions, read_json, rep_rows

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

ARMS = ("adapter", "module")
CHECKPOINTS = range(20260102, 20260107)


@pytest.fixture(scope="module", params=[1, 4])
def other(request, story, tmp_path_factory):
    """The story of two ranks told by another number of them, with two of the arms."""
    other = replace(story, folder=tmp_path_factory.mktemp(f"ranks-{request.param}"))
    transfer = other.transfer_job(only=f"[{', '.join(ARMS)}]")
    run_jobs(request.param, other.pretrain_job(), other.dump_job(), transfer)
    return other


def assert_close(one, two, *, name):
    """Compare to 1e-5, of the size of the larger numbers where sums are above one."""
    difference = np.abs(one.astype(np.float64) - two) / np.maximum(1, np.abs(two))
    assert difference.max(initial=0) < 1e-5, name


def test_the_lineage_is_the_same(story, other):
    assert other.version == story.version


@pytest.mark.parametrize("side", SIDES)
def test_representations_are_the_same(story, other, side):
    assert_same_representations(story, other, side)


def assert_same_representations(story, other, side):
    """Compare every snapshot of two runs on unequal numbers of ranks."""
    worlds = set()
    for as_of in CHECKPOINTS:
        one, two = (rep_rows(run.snapshot(as_of), side) for run in (story, other))
        worlds.add(read_json(other.snapshot(as_of) / "manifest.json")["world"])
        assert one.schema == two.schema
        for name in one.column_names:
            assert one[name].is_valid().equals(two[name].is_valid())
            first, second = column(one, name), column(two, name)
            if first.dtype.kind == "f":
                assert_close(first, second, name=f"{name} as of {as_of}")
            else:
                np.testing.assert_array_equal(first, second, err_msg=name)
    assert len(worlds) == 1
    assert worlds != {2}


@pytest.mark.parametrize("arm", ARMS)
def test_test_figures_are_the_same(story, other, arm):
    first, second = (
        read_json(run.transfer / arm / "seed-0" / "report.json") for run in (story, other)
    )
    assert first["best_epoch"] == second["best_epoch"]
    for one, two in zip(first["metrics"], second["metrics"], strict=True):
        assert one.keys() == two.keys()
        where = f"{one['split']} {one['scenario']}"
        for name, value in one.items():
            if isinstance(value, float):
                assert two[name] == pytest.approx(value, abs=1e-4), f"{where} {name}"
            else:
                assert two[name] == value, f"{where} {name}"


@pytest.mark.parametrize("arm", ARMS)
def test_every_score_is_the_same(story, other, arm):
    first, second = (predictions(run.transfer / arm / "seed-0", "test") for run in (story, other))
    assert first.drop_columns("logit_click").equals(second.drop_columns("logit_click"))
    logits = [rows["logit_click"].to_numpy() for rows in (first, second)]
    np.testing.assert_allclose(*logits, atol=1e-4)


@pytest.fixture(scope="module")
def full_alone(full, tmp_path_factory):
    """Everything on, on one rank."""
    folder = tmp_path_factory.mktemp("full-alone")
    runs = (replace(full.story, folder=folder / name) for name in ("on", "frozen"))
    return tell_full(*runs, world=1)


@pytest.mark.parametrize("day", CHECKPOINTS)
def test_with_everything_on_the_weights_are_the_same(full, full_alone, tmp_path, day):
    first, second = (
        tensors_of(one.story.pretrain / "checkpoints" / f"day={day}", at=tmp_path / "whole.pt")
        for one in (full, full_alone)
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        one, two = value.numpy(), second[name].numpy()
        known = np.isfinite(one)  # levels that a number does not have end at infinity
        np.testing.assert_array_equal(one[~known], two[~known], err_msg=name)
        assert_close(one[known], two[known], name=name)
    kinds = ("rows.dim_24.embeddings", "quantiser.edges", "precision_sum", "temporal")
    assert all(any(kind in name for name in first) for kind in kinds)


@pytest.mark.parametrize("side", SIDES)
def test_with_everything_on_representations_are_the_same(full, full_alone, side):
    assert_same_representations(full.story, full_alone.story, side)


def test_with_everything_on_figures_are_the_same(full, full_alone):
    for name in ("story", "frozen"):
        one, two = (
            read_json(getattr(run, name).pretrain / "report.json") for run in (full, full_alone)
        )
        assert one["upstream"] == two["upstream"]
        assert one["num_parameters"] == two["num_parameters"]
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            assert first.keys() == second.keys()
            for key, value in first.items():
                same = pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
                assert second[key] == same, (first["day"], first["task"], first["scenario"], key)
