"""States carried through a fitted map are the states of the new upstream's own vectors."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.affine import Affine, NormalEquations, carry_states
from lfm4ads.data.latest import fold_latest
from lfm4ads.data.side import SideStates
from lfm4ads.data.sums import fold_events
from tests.gloo import run_ranks
from tests.unit.data.states import one_rank

OLD, NEW, ROWS = 7, 5, 3_000
RIDGE = 1e-9


def planted(seed=0):
    """Old vectors, and new ones that are an affine map of them; the overlap is a tenth."""
    rng = np.random.default_rng(seed)
    old = (rng.normal(size=(ROWS, OLD)) * [3, 1, 1, 1, 0.3, 0.1, 2] + 5).astype(np.float32)
    matrix, bias = rng.normal(size=(NEW, OLD)), rng.normal(size=NEW)
    return {
        "keys": rng.integers(0, 90, ROWS),
        "times": rng.integers(0, 10**9, ROWS),
        "old": old,
        "new": (old @ matrix.T + bias).astype(np.float32),
        "matrix": matrix,
        "bias": bias,
    }


def fit(ranks, seed, rows, noise=0.0):
    case = planted(seed)
    equations = NormalEquations(old_dim=OLD, new_dim=NEW)
    new = case["new"] + noise * np.random.default_rng(1).normal(size=case["new"].shape)
    for start in range(ranks.rank * 50, rows, ranks.world * 50):
        piece = slice(start, min(start + 50, rows))
        equations.add(case["old"][piece], new[piece])
    return equations.fit(ranks, ridge=RIDGE, name="cr")


def states(case, which, half_life):
    ties = np.arange(ROWS)
    return SideStates(
        counts=fold_events(case["keys"], case["old"][:, :0], case["times"], half_life=None),
        decayed={"cr": fold_events(case["keys"], case[which], case["times"], half_life=half_life)},
        latest={"ur": fold_latest(case["keys"], case[which], case["times"], ties=ties)},
    )


@pytest.mark.parametrize("half_life", [None, 1e8, 3e6])
def test_the_planted_map_is_found_and_carried_states_are_rebuilt_ones(half_life):
    case, one = planted(), fit(one_rank(), 0, ROWS // 10)
    np.testing.assert_allclose(one.matrix, case["matrix"], atol=1e-5)
    np.testing.assert_allclose(one.bias, case["bias"], atol=1e-4)
    assert one.r2 == pytest.approx(1.0, abs=1e-6)
    assert one.rows == ROWS // 10
    rebuilt = states(case, "new", half_life)
    carried = carry_states(states(case, "old", half_life), {"cr": one, "ur": one})
    scale = np.abs(rebuilt.decayed["cr"].sum).max()
    np.testing.assert_allclose(
        carried.decayed["cr"].sum, rebuilt.decayed["cr"].sum, rtol=1e-5, atol=1e-5 * scale
    )
    for name in ("keys", "time", "events", "weight"):
        np.testing.assert_array_equal(
            getattr(carried.decayed["cr"], name), getattr(rebuilt.decayed["cr"], name)
        )
    np.testing.assert_allclose(
        carried.latest["ur"].vector, rebuilt.latest["ur"].vector, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(carried.latest["ur"].tie, rebuilt.latest["ur"].tie)


def test_without_the_bias_times_z_it_would_not_be():
    """The control: S' = A S alone misses b Z."""
    case, one = planted(), fit(one_rank(), 0, ROWS)
    rebuilt = states(case, "new", 3e6).decayed["cr"]
    linear = Affine(matrix=one.matrix, bias=np.zeros(NEW), r2=1.0, rows=ROWS)
    wrong = carry_states(states(case, "old", 3e6), {"cr": linear}).decayed["cr"]
    assert np.abs(wrong.sum - rebuilt.sum).max() > 0.1


def test_r2_is_the_explained_share():
    noisy = fit(one_rank(), 0, ROWS, noise=2.0)
    case = planted()
    new = case["new"] + 2.0 * np.random.default_rng(1).normal(size=case["new"].shape)
    error = new - (case["old"] @ noisy.matrix.T + noisy.bias)
    expected = 1 - (error**2).sum() / ((new - new.mean(0)) ** 2).sum()
    assert noisy.r2 == pytest.approx(expected, abs=1e-9)
    assert 0.3 < noisy.r2 < 0.99


def test_vectors_that_never_change_are_mapped_to_the_mean():
    equations = NormalEquations(old_dim=2, new_dim=1)
    equations.add(np.ones((9, 2), np.float32), np.arange(9, dtype=np.float32)[:, None])
    one = equations.fit(one_rank(), ridge=RIDGE, name="cr")
    np.testing.assert_allclose(one.matrix @ [1, 1] + one.bias, [4.0])
    assert one.r2 == pytest.approx(0.0, abs=1e-12)


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="carry has 8 rows to fit cr, which has 7 old dimensions"):
        fit(one_rank(), 0, 8)


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_fits_the_same(world):
    alone = fit(one_rank(), 3, ROWS, noise=1.0)
    for one in run_ranks(fit, world, 3, ROWS, 1.0):
        np.testing.assert_allclose(one.matrix, alone.matrix, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(one.bias, alone.bias, rtol=1e-8, atol=1e-9)
        assert one.r2 == pytest.approx(alone.r2, abs=1e-12)
