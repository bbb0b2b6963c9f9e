"""The soak tears what it says and sees a difference of one bit; a short one is survived."""

import random

import pytest
import torch

from benchmarks.soak import TEARS, Settings, differences, soak, tear
from tests.pipeline.jobs import SECONDS


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", TEARS)
def test_one_file_of_the_newest_checkpoint_is_torn(tmp_path, kind):
    dice = random.Random(1)
    for name in ("last", "previous"):
        assert not tear(tmp_path, kind=kind, dice=dice), "there is nothing to fall back to"
        (tmp_path / name).mkdir()
        for file in ("one", "two"):
            (tmp_path / name / file).write_bytes(bytes(range(100)))
    before = content(tmp_path / "previous")
    assert tear(tmp_path, kind=kind, dice=dice)
    assert content(tmp_path / "previous") == before
    after = content(tmp_path / "last")
    (changed,) = (name for name in before if after.get(name) != before[name])
    match kind:
        case "delete":
            assert changed not in after
        case "truncate":
            assert after[changed] == before[changed][:50]
        case _:
            pairs = zip(after[changed], before[changed], strict=True)
            assert sum((one ^ other).bit_count() for one, other in pairs) == 1


def test_a_difference_of_one_bit_is_named():
    one = {"report": {"auc": 0.5}, "weights": torch.ones(3), "gone": torch.ones(1)}
    other = {"report": {"auc": 0.5}, "weights": torch.ones(3)}
    other["weights"][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert differences(one, other) == ["gone", "weights"]
    assert differences(one, dict(one)) == []


@pytest.mark.slow
@pytest.mark.multiproc
@pytest.mark.timeout(4 * SECONDS)
def test_a_short_soak_is_survived(tmp_path):
    settings = Settings(minutes=1, rows=1_000, pause_seconds=(0.2, 4.0))
    found = soak(settings, tmp_path)
    assert found["different"] == []
    assert found["runs"] >= 1
    assert found["injected"], "nothing was done to it"
    assert found["injected"] == found["survived"]
