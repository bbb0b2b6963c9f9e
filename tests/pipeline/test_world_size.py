"""One, two and four ranks: the same model, the same representations, the same test figures."""

from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.jobs import SECONDS, run_jobs
from tests.pipeline.read import SIDES, column, predictions, read_json, rep_rows

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

ARMS = ("adapter", "module")
CHECKPOINTS = range(20260102, 20260107)


@pytest.fixture(scope="module", params=[1, 4])
def other(request, story, tmp_path_factory):
    """The story of two ranks told by another number of them, with two of the arms."""
    other = replace(story, folder=tmp_path_factory.mktemp(f"ranks-{request.param}"))
    transfer = other.transfer_job(arms=f"[{', '.join(ARMS)}]")
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
