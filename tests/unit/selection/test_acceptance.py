"""Whole answers: optima of a real set, hard designs, rare labels, and any number of ranks."""

import itertools
import threading

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from lfm4ads.selection import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor
from lfm4ads.selection.binned import BinnedCox, quantile_bins
from lfm4ads.selection.distributed import RowsOptions, select_rows
from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.rows import ArrayRows, RowBatch
from lfm4ads.selection.select import SelectOptions, select
from lfm4ads.selection.streamed import StreamedGlm, read_totals
from lfm4ads.selection.task import open_task
from tests.unit.selection.problems import MODELS, make_task


def test_every_size_of_a_real_set_is_the_optimum():
    X, y = load_diabetes(return_X_y=True)
    y = y - y.mean()
    estimator = BestSubsetRegressor(max_size=10).fit(X, y)
    for row in estimator.get_path()[1:]:
        losses = []
        for columns in itertools.combinations(range(10), row["size"]):
            rest = y - X[:, columns] @ np.linalg.lstsq(X[:, columns], y, rcond=None)[0]
            losses.append(0.5 * rest @ rest)
        assert row["loss"] == pytest.approx(min(losses), rel=1e-7)


def forward_losses(X, y, *, most):
    """Return the loss of greedy forward selection at each size."""
    chosen, losses = [], []
    for _ in range(most):
        found = {}
        for column in set(range(X.shape[1])) - set(chosen):
            columns = [*chosen, column]
            rest = y - X[:, columns] @ np.linalg.lstsq(X[:, columns], y, rcond=None)[0]
            found[column] = 0.5 * rest @ rest
        chosen.append(min(found, key=found.get))
        losses.append(found[chosen[-1]])
    return losses


def test_no_size_of_a_collinear_path_is_worse_than_greedy():
    better = 0
    for seed in range(6):
        task, _ = make_task("linear", rows=120, columns=30, true=6, seed=seed, rho=0.9, signal=10.0)
        found = select(task, SelectOptions(largest=8))
        y = task.y_N - task.y_N.mean()
        greedy = forward_losses(task.matrix - task.matrix.mean(0), y, most=8)
        ours = [row.loss for row in found.rows if row.size][:8]
        assert all(mine <= other * (1 + 1e-6) for mine, other in zip(ours, greedy, strict=True))
        better += sum(mine < other * (1 - 1e-6) for mine, other in zip(ours, greedy, strict=True))
    assert better > 0


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_rare_positives_do_not_end_the_path(ridge):
    recipe = Recipe(
        model="logistic",
        rows=4000,
        columns=20,
        true_columns=3,
        signal_ratio=2.0,
        mixed_signs=True,
        positive_ratio=0.02,
    )
    drawn = draw(recipe, seed=1)
    estimator = BestSubsetClassifier(ridge=ridge, max_size=6).fit(drawn.matrix_NP, drawn.y_N)
    assert [row["size"] for row in estimator.get_path()] == list(range(7))
    assert not any(row["separated"] for row in estimator.get_path())
    np.testing.assert_array_equal(estimator.get_support(indices=True), drawn.true_K)


@pytest.mark.parametrize("model", ["logistic", "cox"])
def test_more_columns_than_rows_in_curved_models(model):
    recipe = Recipe(
        model=model, rows=60, columns=150, true_columns=1, signal_ratio=8.0, mixed_signs=True
    )
    drawn = draw(recipe, seed=4)
    face = BestSubsetClassifier if model == "logistic" else BestSubsetCox
    y = drawn.y_N if model == "logistic" else np.c_[drawn.y_N, drawn.event_N]
    estimator = face(max_size=3).fit(drawn.matrix_NP, y)
    assert drawn.true_K[0] in estimator.get_support(indices=True)
    assert np.isfinite(estimator.coef_).all()


@pytest.mark.parametrize("model", MODELS)
def test_no_column_and_every_column(model):
    task, _ = make_task(model, rows=80, columns=5, true=2, signal=0.5)
    none = select(task, SelectOptions(size=0))
    assert not len(none.coefficients.columns_K)
    every = select(task, SelectOptions(size=5))
    np.testing.assert_array_equal(every.coefficients.columns_K, np.arange(5))
    assert every.chosen.loss < none.chosen.loss


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_blocks_in_one_pass_are_the_hessian_of_each_group(ties):
    groups = np.array([[0, 7, 3], [1, 2, 11]])
    chosen = np.array([1, 5])
    for model in ("cox", "logistic"):
        task, _ = make_task(model, rows=150, columns=12, levels=9, weighted=True, ties=ties)
        event_N = task.event_N if model == "cox" else np.ones(150)
        source = ArrayRows(RowBatch(task.matrix, task.y_N, task.weight_N, event_N), batch_rows=40)
        totals = read_totals(source, sum_over_ranks=np.copy)
        if model == "cox":
            edges = quantile_bins(source, sum_over_ranks=np.copy)
            problem = BinnedCox(source, totals, edges_T=edges, sum_over_ranks=np.copy, ties=ties)
        else:
            problem = StreamedGlm(source, totals, family="logistic", sum_over_ranks=np.copy)
        fit = problem.fit(chosen, start=None)
        blocks = problem.blocks(fit, columns_GM=groups)
        for block, group in zip(blocks, groups, strict=True):
            wanted = problem.hessian(fit, columns_M=group)
            np.testing.assert_allclose(block, wanted, rtol=1e-9, atol=1e-9)
        memory = open_task(task).problem
        wanted = memory.blocks(memory.fit(chosen, start=None), columns_GM=groups)
        np.testing.assert_allclose(blocks, wanted, rtol=1e-5, atol=1e-5)


class Together:
    """Sums arrays over threads that stand for ranks."""

    def __init__(self, world):
        self._barrier = threading.Barrier(world, timeout=60)
        self._parts = {}

    def of(self, rank):
        def summed(values):
            self._parts[rank] = np.array(values)
            self._barrier.wait()
            total = sum(self._parts[one] for one in sorted(self._parts))
            self._barrier.wait()
            return total

        return summed


def run_world(task, options, *, world):
    """Select on threads, each with every ``world``-th row."""
    together, found = Together(world), [None] * world
    event_N = np.ones(len(task.y_N)) if task.event_N is None else task.event_N

    def body(rank):
        rows = slice(rank, None, world)
        batch = RowBatch(task.matrix[rows], task.y_N[rows], task.weight_N[rows], event_N[rows])
        source = ArrayRows(batch, batch_rows=50)
        found[rank] = select_rows(source, options, sum_over_ranks=together.of(rank))

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_answer_of_one_two_and_four_ranks_is_that_of_memory(model, grouped):
    task, _ = make_task(
        model, rows=240, columns=8, true=3, rho=0.5, levels=30, weighted=True, ties="breslow"
    )
    groups = np.arange(8) // 2 if grouped else None
    options = SelectOptions(size=2 if grouped else 3, groups=groups)
    wanted = select(task, options).coefficients
    for world in (1, 2, 4):
        for one in run_world(task, RowsOptions(model=model, select=options), world=world):
            np.testing.assert_array_equal(one.coefficients.columns_K, wanted.columns_K)
            np.testing.assert_allclose(one.coefficients.values_K, wanted.values_K, rtol=1e-4)
