"""Sets of a given size: the optimum, termination, splicing, groups."""

import itertools

import numpy as np
import pytest

from lfm4ads.selection.path import Path
from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.replace import replace_any
from lfm4ads.selection.sacrifice import sacrifices
from lfm4ads.selection.solver import Solution, SolverOptions, null_solution, solve
from lfm4ads.selection.swap import block_swaps, guess, open_neighbourhood, pair_swaps
from lfm4ads.selection.task import Task, open_task
from lfm4ads.selection.units import build_units, pick_largest
from tests.unit.selection.problems import MODELS, exhaustive, make_task


def search(problem, *, size, units=None, start=None, **options):
    units = build_units(problem.num_columns) if units is None else units
    chosen = SolverOptions(**options)
    start = start or null_solution(problem, units, chosen)
    return solve(problem, units, size=size, start=start, options=chosen)


@pytest.mark.parametrize("model", MODELS)
def test_splicing_finds_optima_that_the_plain_iteration_misses(model):
    equal = {"pure": 0, "pdas+splicing": 0}
    for seed in range(8):
        task, _ = make_task(model, rows=100, columns=8, true=3, seed=seed)
        problem = open_task(task).problem
        best = exhaustive(problem, size=3).objective
        for algorithm in equal:
            found = search(problem, size=3, algorithm=algorithm).fit.objective
            assert found >= best - 1e-6 * abs(best)
            equal[algorithm] += found <= best + 1e-6 * abs(best)
    assert equal["pdas+splicing"] >= 7
    assert equal["pure"] < equal["pdas+splicing"]


def test_the_plain_iteration_cycles_and_every_search_ends():
    stops = set()
    for seed in range(25):
        task, _ = make_task("linear", rows=60, columns=40, true=6, seed=seed, rho=0.9)
        problem = open_task(task).problem
        plain = search(problem, size=6, algorithm="pure")
        walked = search(problem, size=6, algorithm="pdas")
        spliced = search(problem, size=6)
        stops.add(walked.stop)
        assert walked.fit.objective <= plain.fit.objective * (1 + 1e-9)
        assert spliced.fit.objective <= walked.fit.objective * (1 + 1e-9)
        assert walked.steps <= 20
    assert {"fixed", "repeat"} <= stops


def test_a_predicted_exchange_of_a_linear_model_is_a_fact():
    task, _ = make_task("linear", rows=50, columns=10)
    problem, units = open_task(task).problem, build_units(10)
    chosen = np.array([0, 4, 7])
    fit = problem.fit(chosen, start=None)
    values = sacrifices(problem, units, fit, correction="none", within=None)
    near = open_neighbourhood(problem, units, fit, chosen=chosen, values_U=values, num_others=7)
    swaps = pair_swaps(near, count=21)
    assert len(swaps) == 21
    blocks = list(block_swaps(near, values, most=3))
    assert [len(swap.coming) for swap in blocks] == [1, 2, 3]
    for swap in (*swaps, *blocks):
        after = np.union1d(np.setdiff1d(chosen, swap.leaving), swap.coming)
        fitted = problem.fit(after, start=None)
        assert swap.change == pytest.approx(fitted.objective - fit.objective, abs=1e-8)
        expected, found = np.zeros(10), np.zeros(10)
        start = guess(near, swap).fit
        expected[fitted.columns_K], found[start.columns_K] = (
            fitted.coefficients_K,
            start.coefficients_K,
        )
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_sacrifice_is_what_the_loss_gives_to_second_order():
    task, _ = make_task("linear", rows=80, columns=6, rho=0.5)
    problem, units = open_task(task).problem, build_units(6)
    fit = problem.fit(np.array([2]), start=None)
    values = sacrifices(problem, units, fit, correction="none", within=None)
    null = problem.fit(np.zeros(0, np.int64), start=None)
    assert values[2] == pytest.approx(null.objective - fit.objective, rel=1e-9)


@pytest.mark.parametrize("design", ["linear", "logistic", "cox"])
def test_the_recipe_of_the_paper_is_recovered(design):
    columns, true = {"linear": (600, 12), "logistic": (300, 5), "cox": (100, 5)}[design]
    recipe = Recipe(model=design, rows=400, columns=columns, true_columns=true)
    drawn = draw(recipe, seed=1)
    event = drawn.event_N if design == "cox" else None
    task = Task(
        model=design, matrix=drawn.matrix_NP, y_N=drawn.y_N, weight_N=np.ones(400), event_N=event
    )
    found = search(open_task(task).problem, size=true)
    np.testing.assert_array_equal(np.sort(found.units), drawn.true_K)


def test_wide_curved_problems_end_at_a_certified_set():
    recipe = Recipe(model="logistic", rows=300, columns=900, true_columns=4)
    drawn = draw(recipe, seed=2)
    task = Task(model="logistic", matrix=drawn.matrix_NP, y_N=drawn.y_N, weight_N=np.ones(300))
    problem = open_task(task).problem
    assert not problem.wide_is_cheap
    found = search(problem, size=4)
    np.testing.assert_array_equal(np.sort(found.units), drawn.true_K)


def group_task(*, seed, correlation=0.9, size=6, groups=12, true=3):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(400, groups, 1))
    own = generator.normal(size=(400, groups, size))
    blocks = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    labels = np.repeat(np.arange(groups), size)
    chosen = np.sort(generator.choice(groups, true, replace=False))
    beta = np.zeros((groups, size))
    beta[chosen] = generator.normal(size=(true, size))
    signal = (blocks * beta).sum((1, 2))
    y = signal + generator.normal(size=400) * signal.std() * 0.7
    order = generator.permutation(groups * size)
    matrix = blocks.reshape(400, -1)[:, order]
    return Task(model="linear", matrix=matrix, y_N=y, weight_N=np.ones(400)), labels[order], chosen


@pytest.mark.parametrize("correction", ["null", "width", "none"])
def test_groups_whose_columns_are_interleaved_reach_the_optimum(correction):
    true = 0
    for seed in range(5):
        task, labels, chosen = group_task(seed=seed)
        units = build_units(len(labels), groups=labels)
        problem = open_task(task).problem
        every = [np.array(one) for one in itertools.combinations(range(12), 3)]
        best = min(problem.fit(units.columns(one), start=None).objective for one in every)
        found = search(problem, size=3, units=units, correction=correction)
        assert found.fit.objective == pytest.approx(best, rel=1e-9)
        columns = np.sort(found.fit.columns_K)
        np.testing.assert_array_equal(columns, np.flatnonzero(np.isin(labels, found.units)))
        true += np.array_equal(np.sort(found.units), chosen)
    assert true >= 3  # the optimum is not always the truth: signals of single blocks may be weak


def test_group_choice_does_not_depend_on_rotation():
    task, labels, _ = group_task(seed=3)
    generator = np.random.default_rng(0)
    matrix = task.matrix.copy()
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        matrix[:, inside] = matrix[:, inside] @ generator.normal(size=(len(inside),) * 2)
    turned = Task(model="linear", matrix=matrix, y_N=task.y_N, weight_N=task.weight_N)
    units = build_units(len(labels), groups=labels)
    one, other = (search(open_task(each).problem, size=4, units=units) for each in (task, turned))
    np.testing.assert_array_equal(one.units, other.units)
    assert one.fit.loss == pytest.approx(other.fit.loss, rel=1e-6)


@pytest.mark.parametrize("model", ["logistic", "cox"])
def test_groups_of_curved_models(model):
    task, drawn = make_task(model, rows=400, columns=24, true=2, rho=0.3, signal=3.0)
    labels = np.arange(24) // 3
    units = build_units(24, groups=labels)
    wanted = np.unique(labels[drawn.true_K])
    found = search(open_task(task).problem, size=len(wanted), units=units)
    np.testing.assert_array_equal(np.sort(found.units), wanted)


def test_always_included_units_stay():
    task, drawn = make_task("linear", rows=100, columns=12)
    useless = int(np.setdiff1d(np.arange(12), drawn.true_K)[0])
    units = build_units(12, always=[useless])
    found = search(open_task(task).problem, size=3, units=units)
    assert useless in found.units


def test_of_equal_values_the_lower_index_is_taken():
    values = np.array([1.0, 3.0, 3.0, 3.0, 2.0])
    np.testing.assert_array_equal(pick_largest(values, 2), [1, 2])
    many = np.tile(values, 200)
    wanted = np.sort(np.argsort(-many, kind="stable")[:350])
    np.testing.assert_array_equal(pick_largest(many, 350), wanted)


def look_again(model, *, seed, largest):
    recipe = Recipe(
        model=model,
        rows=1000,
        columns=1000,
        true_columns=10 if model == "linear" else 5,
        design="autoregressive",
        rho=0.9,
        signal_ratio=1.0,
        mixed_signs=True,
    )
    drawn = draw(recipe, seed=seed)
    task = Task(model=model, matrix=drawn.matrix_NP, y_N=drawn.y_N, weight_N=np.ones(1000))
    path = Path(open_task(task).problem, build_units(1000), SolverOptions())
    before = [path.at(size).fit.objective for size in range(largest + 1)]
    return path, before


def test_a_size_is_solved_again_from_sizes_near_it():
    path, before = look_again("linear", seed=8, largest=17)
    once = path.criteria(8).ebic
    assert path.improve(8)
    assert path.at(8).fit.objective < before[8]
    assert path.criteria(8).ebic < once
    assert not path.improve(8)


def test_a_neighbour_without_slope_may_take_the_place_of_a_chosen_column():
    path, _ = look_again("logistic", seed=12, largest=0)
    problem, units = path.problem, path.units
    fit = problem.fit(np.array([30, 63, 108, 230]), start=None)
    values_U = sacrifices(problem, units, fit, correction="null", within=None)
    start = Solution(fit.columns_K, fit, values_U, 1, "fixed", monotone=True)
    assert search(problem, size=4, units=units, start=start).units.tolist() == [30, 63, 108, 230]
    # The true one, correlated .9 with 230.
    found = replace_any(problem, units, start, SolverOptions())
    assert found.units.tolist() == [30, 63, 108, 231]
    assert found.fit.objective < fit.objective


@pytest.mark.parametrize("model", ["linear", "logistic", "poisson"])
def test_second_derivatives_across_all_columns_are_those_of_the_blocks(model):
    task, _ = make_task(model, weighted=True, ridge=1e-3)
    problem = open_task(task).problem
    fit = problem.fit(np.array([1, 5, 7]), start=None)
    whole = problem.hessian(fit, columns_M=np.arange(12))
    np.testing.assert_allclose(problem.across(fit), whole[:, [1, 5, 7]], rtol=1e-9, atol=1e-9)
