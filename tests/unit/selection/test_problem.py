"""Gradients, Hessians, fits: against automatic derivatives, loops and other solvers."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from lfm4ads.selection.binned import BinnedCox, quantile_bins
from lfm4ads.selection.columns import Columns
from lfm4ads.selection.newton import factorise, invert
from lfm4ads.selection.rows import ArrayRows, RowBatch
from lfm4ads.selection.streamed import StreamedGlm, read_totals
from lfm4ads.selection.task import open_task, predictor, refit
from tests.unit.selection.problems import MODELS, make_task


def slow_loss(task, beta, intercept, *, matrix):
    """The negative log-likelihood by loops over risk sets, in torch."""
    x, y = torch.tensor(matrix), torch.tensor(task.y_N)
    w = torch.tensor(task.weight_N)
    eta = x @ beta + intercept
    if task.model == "linear":
        return 0.5 * (w * (y - eta) ** 2).sum()
    if task.model == "logistic":
        return (w * (torch.nn.functional.softplus(eta) - y * eta)).sum()
    if task.model == "poisson":
        return (w * (torch.exp(eta) - y * eta)).sum()
    loss = torch.zeros((), dtype=torch.float64)
    event = torch.tensor(task.event_N) > 0
    for time in torch.unique(y[event]):
        here = event & (y == time)
        risk = (w * torch.exp(eta))[y >= time].sum()
        tied = (w * torch.exp(eta))[here].sum()
        count = int(here.sum())
        for place in range(count):
            share = place / count if task.ties == "efron" else 0.0
            loss = loss + w[here].sum() / count * torch.log(risk - share * tied)
        loss = loss - (w * eta)[here].sum()
    return loss


def standardised(task):
    mean = task.weight_N @ task.matrix / task.weight_N.sum()
    centred = task.matrix - mean
    return centred / np.sqrt(task.weight_N @ centred**2 / task.weight_N.sum())


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("model", MODELS)
def test_slopes_and_hessian_are_those_of_automatic_derivatives(model, ties):
    task, _ = make_task(model, rows=60, columns=7, levels=9, weighted=True, ties=ties)
    problem = open_task(task).problem
    columns = np.array([0, 3, 5])
    fit = problem.fit(columns, start=None)
    beta = np.zeros(7)
    beta[columns] = fit.coefficients_K
    matrix = standardised(task)

    def loss(values):
        return slow_loss(task, values[:7], values[7], matrix=matrix)

    at = torch.tensor(np.r_[beta, fit.intercept], requires_grad=True)
    gradient = torch.autograd.grad(loss(at), at)[0].numpy()
    hessian = torch.autograd.functional.hessian(loss, at.detach()).numpy()
    if model != "cox":
        hessian = hessian[:7, :7] - np.outer(hessian[:7, 7], hessian[7, :7]) / hessian[7, 7]
    slopes = problem.slopes(fit, columns_M=None)
    np.testing.assert_allclose(slopes.gradient_M, gradient[:7], atol=1e-6)
    np.testing.assert_allclose(slopes.curvature_M, hessian.diagonal()[:7], rtol=1e-6)
    some = np.array([1, 5, 2])
    wanted = hessian[:7, :7][np.ix_(some, some)]
    np.testing.assert_allclose(problem.hessian(fit, columns_M=some), wanted, rtol=1e-6, atol=1e-6)
    few = problem.slopes(fit, columns_M=some)
    np.testing.assert_allclose(few.curvature_M, slopes.curvature_M[some], rtol=1e-8)
    assert fit.loss == pytest.approx(float(loss(at).detach()), rel=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_refit_is_the_minimum_a_general_optimiser_finds(model):
    task, _ = make_task(model, rows=120, columns=5, levels=15, weighted=True)
    found = refit(task, np.arange(5))

    def loss(values):
        at = torch.tensor(values, requires_grad=True)
        intercept = at[5] if model != "cox" else torch.zeros(())
        value = slow_loss(task, at[:5], intercept, matrix=task.matrix)
        slope = torch.autograd.grad(value, at)[0].numpy()
        return float(value.detach()), slope

    wanted = minimize(loss, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(found.values_K, wanted[:5], atol=1e-6)
    if model != "cox":
        assert found.intercept == pytest.approx(wanted[5], abs=1e-6)


def test_refit_equals_scikit_learn_without_penalty():
    task, _ = make_task("logistic", rows=200, columns=4)
    plain = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(task.matrix, task.y_N)
    np.testing.assert_allclose(refit(task, np.arange(4)).values_K, plain.coef_[0], atol=1e-5)
    task, _ = make_task("poisson", rows=200, columns=4)
    counts = PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(task.matrix, task.y_N)
    np.testing.assert_allclose(refit(task, np.arange(4)).values_K, counts.coef_, atol=1e-5)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_does_not_see_the_order_of_tied_rows(ties):
    task, _ = make_task("cox", rows=100, columns=3, levels=5, ties=ties)
    order = np.random.default_rng(1).permutation(100)
    shuffled = type(task)(
        model="cox",
        matrix=task.matrix[order],
        y_N=task.y_N[order],
        event_N=task.event_N[order],
        weight_N=task.weight_N,
        ties=ties,
    )
    one, other = refit(task, np.arange(3)), refit(shuffled, np.arange(3))
    np.testing.assert_allclose(one.values_K, other.values_K, rtol=1e-9)


def test_ties_matter():
    task, _ = make_task("cox", rows=100, columns=3, levels=5, ties="efron")
    other, _ = make_task("cox", rows=100, columns=3, levels=5, ties="breslow")
    apart = refit(task, np.arange(3)).values_K - refit(other, np.arange(3)).values_K
    assert np.abs(apart).max() > 1e-2


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_repeated_rows(model):
    task, _ = make_task(model, rows=60, columns=3, weighted=True, ties="breslow")
    rows = np.repeat(np.arange(60), task.weight_N.astype(int))
    event = None if task.event_N is None else task.event_N[rows]
    longer = type(task)(
        model=model,
        matrix=task.matrix[rows],
        y_N=task.y_N[rows],
        event_N=event,
        weight_N=np.ones(len(rows)),
        ties="breslow",
    )
    one, other = refit(task, np.arange(3)), refit(longer, np.arange(3))
    np.testing.assert_allclose(one.values_K, other.values_K, rtol=1e-7)
    assert one.intercept == pytest.approx(other.intercept, rel=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_sparse_and_far_from_zero_columns_give_the_same_fit(model):
    task, _ = make_task(model, rows=80, columns=4)
    wanted = refit(task, np.arange(4)).values_K
    found = refit(
        type(task)(**{**vars(task), "matrix": sparse.csr_array(task.matrix)}), np.arange(4)
    )
    np.testing.assert_allclose(found.values_K, wanted, rtol=1e-8)
    far = type(task)(**{**vars(task), "matrix": task.matrix + 1e6})
    np.testing.assert_allclose(refit(far, np.arange(4)).values_K, wanted, rtol=1e-5)
    sparse_fit = open_task(type(task)(**{**vars(task), "matrix": sparse.csr_array(task.matrix)}))
    slopes = sparse_fit.problem.slopes(
        sparse_fit.problem.fit(np.array([1]), start=None), columns_M=None
    )
    dense = open_task(task).problem
    wanted_slopes = dense.slopes(dense.fit(np.array([1]), start=None), columns_M=None)
    np.testing.assert_allclose(slopes.curvature_M, wanted_slopes.curvature_M, rtol=1e-8)


def test_offset_moves_the_predictor():
    task, drawn = make_task("poisson", rows=400, columns=3, true=3, signal=0.3)
    shifted = type(task)(
        **{**vars(task), "offset_N": task.matrix @ drawn.coefficients_P[:3], "y_N": task.y_N}
    )
    assert np.abs(refit(shifted, np.arange(3)).values_K).max() < 0.2
    assert predictor(shifted, refit(shifted, np.arange(3))).shape == (400,)


def test_bins_for_every_time_are_exact_and_few_bins_are_close():
    task, _ = make_task("cox", rows=2000, columns=5, ties="breslow", levels=200)
    batch = RowBatch(task.matrix, task.y_N, task.weight_N, task.event_N)
    source = ArrayRows(batch, batch_rows=300)
    exact = open_task(task).problem.fit(np.arange(5), start=None)
    totals = read_totals(source, sum_over_ranks=np.copy)
    errors = {}
    for bins in (16, 128, 4096):
        edges = quantile_bins(source, sum_over_ranks=np.copy, num_bins=bins)
        binned = BinnedCox(source, totals, edges_T=edges, sum_over_ranks=np.copy)
        fit = binned.fit(np.arange(5), start=None)
        errors[bins] = np.abs(fit.coefficients_K / exact.coefficients_K - 1).max()
    assert errors[4096] < 1e-6 < errors[128] < errors[16]
    assert errors[128] < 0.03


def test_streamed_rows_give_the_fit_of_memory():
    task, _ = make_task("logistic", rows=500, columns=6, weighted=True)
    ones = np.ones(500)
    source = ArrayRows(RowBatch(task.matrix, task.y_N, task.weight_N, ones), batch_rows=77)
    totals = read_totals(source, sum_over_ranks=np.copy)
    streamed = StreamedGlm(source, totals, family="logistic", sum_over_ranks=np.copy)
    memory = open_task(task).problem
    columns = np.array([1, 4])
    one, other = streamed.fit(columns, start=None), memory.fit(columns, start=None)
    np.testing.assert_allclose(one.coefficients_K, other.coefficients_K, rtol=1e-9)
    for asked in (None, np.array([2, 3])):
        mine, theirs = (p.slopes(f, columns_M=asked) for p, f in ((streamed, one), (memory, other)))
        np.testing.assert_allclose(mine.gradient_M, theirs.gradient_M, atol=1e-7)
        np.testing.assert_allclose(mine.curvature_M, theirs.curvature_M, rtol=1e-9)
    hessians = (p.hessian(f, columns_M=columns) for p, f in ((streamed, one), (memory, other)))
    np.testing.assert_allclose(*hessians, rtol=1e-8)


def test_columns_taken_one_way_or_another_are_the_same():
    generator = np.random.default_rng(0)
    matrix, weight = generator.normal(size=(50, 8)) + 3, generator.random(50)
    columns = Columns(matrix, weight_N=weight, centred=True)
    taken = columns.take(np.arange(8))
    assert np.abs(weight @ taken).max() < 1e-10
    np.testing.assert_allclose(weight @ taken**2, weight.sum())
    values = generator.normal(size=(50, 2))
    np.testing.assert_allclose(columns.sums(values), taken.T @ values, atol=1e-10)
    moments = columns.moments(values[:, 0], weight)
    np.testing.assert_allclose(moments.squares_P, weight @ taken**2)


def test_a_singular_matrix_is_lifted_and_a_regular_one_is_not():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(4, 4))
    matrix = root @ root.T
    np.testing.assert_allclose(invert(matrix) @ matrix, np.eye(4), atol=1e-8)
    assert np.isfinite(factorise(np.ones((3, 3)))).all()
