"""The faces: scikit-learn's own checks, sizes, criteria, paths, bad input."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from lfm4ads.core.errors import UserError
from lfm4ads.selection import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor
from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.survival import Survival, concordance

ESTIMATORS = [
    BestSubsetRegressor(),
    BestSubsetRegressor(loss="poisson"),
    BestSubsetClassifier(),
    BestSubsetCox(ties="breslow"),
]


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_the_estimators(estimator, check):
    # Under Efron a row of weight 2 is not a row twice, which would be a tie; hence Breslow here.
    check(estimator)


def recipe_data(model="linear", **options):
    settings = {"rows": 300, "columns": 60, "true_columns": 5, "mixed_signs": True} | options
    drawn = draw(Recipe(model=model, **settings), seed=3)
    y = np.c_[drawn.y_N, drawn.event_N] if model == "cox" else drawn.y_N
    return drawn, y


@pytest.mark.parametrize("search", ["sequential", "grid", "golden"])
@pytest.mark.parametrize("criterion", ["ebic", "gic", "bic", "cv"])
def test_searches_find_the_true_columns(search, criterion):
    drawn, y = recipe_data()
    estimator = BestSubsetRegressor(search=search, criterion=criterion, cv_rule="one_error")
    estimator.set_params(random_state=0, max_size=15).fit(drawn.matrix_NP, y)
    support = estimator.get_support(indices=True)
    assert set(drawn.true_K) <= set(support)
    if criterion in ("ebic", "gic"):
        np.testing.assert_array_equal(support, drawn.true_K)


def test_the_path_holds_the_criteria_of_its_formulas():
    drawn, y = recipe_data()
    estimator = BestSubsetRegressor(max_size=8).fit(drawn.matrix_NP, y)
    for row in estimator.get_path():
        columns = row["columns"]
        if not len(columns):
            continue
        plain = LinearRegression().fit(drawn.matrix_NP[:, columns], y)
        rest = y - plain.predict(drawn.matrix_NP[:, columns])
        deviance = 300 * np.log(np.mean(rest**2))
        assert row["deviance"] == pytest.approx(deviance, rel=1e-6)
        size = len(columns)
        assert row["aic"] == pytest.approx(deviance + 2 * size, rel=1e-6)
        assert row["bic"] == pytest.approx(deviance + np.log(300) * size, rel=1e-6)
        price = np.log(300) + 2 * np.log(60)
        assert row["ebic"] == pytest.approx(deviance + price * size, rel=1e-6)
        price = np.log(60) * np.log(np.log(300))
        assert row["gic"] == pytest.approx(deviance + price * size, rel=1e-6)


def test_elbow_search_is_there_for_parity():
    drawn, y = recipe_data()
    estimator = BestSubsetRegressor(search="gpdas", algorithm="pure").fit(drawn.matrix_NP, y)
    assert 1 <= estimator.size_ <= 6


def test_null_data_choose_nothing():
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(200, 50)), generator.normal(size=200)
    assert BestSubsetRegressor().fit(X, y).size_ == 0
    assert BestSubsetRegressor(size=1).fit(X, y).get_support().sum() == 1
    assert BestSubsetRegressor(size=0).fit(X, y).predict(X) == pytest.approx(np.full(200, y.mean()))


def test_screening_warm_start_and_groups():
    drawn, y = recipe_data()
    screened = BestSubsetRegressor(screening=25).fit(drawn.matrix_NP, y)
    np.testing.assert_array_equal(screened.get_support(indices=True), drawn.true_K)
    warm = BestSubsetRegressor(size=5, warm_start=True).fit(drawn.matrix_NP, y)
    first = warm.coef_.copy()
    np.testing.assert_allclose(warm.fit(drawn.matrix_NP, y).coef_, first)
    labels = np.array([f"block{j % 12}" for j in range(60)])
    grouped = BestSubsetRegressor(groups=labels, size=3, screening=10).fit(drawn.matrix_NP, y)
    assert len(set(labels[grouped.get_support()])) == 3
    assert grouped.get_support().sum() == 15


def test_sparse_matrices_give_the_same_answer():
    drawn, y = recipe_data("logistic", signal_ratio=3.0)
    dense = BestSubsetClassifier(size=5).fit(drawn.matrix_NP, y)
    thin = BestSubsetClassifier(size=5).fit(sparse.csr_array(drawn.matrix_NP), y)
    np.testing.assert_allclose(dense.coef_, thin.coef_, atol=1e-7)
    probability = thin.predict_proba(drawn.matrix_NP)
    np.testing.assert_allclose(probability.sum(1), 1.0)
    assert thin.score(drawn.matrix_NP, y) > 0.7


def test_ridge_shrinks_and_grid_search_works():
    drawn, y = recipe_data("logistic", signal_ratio=3.0)
    plain, ridge = (
        BestSubsetClassifier(size=5, ridge=r).fit(drawn.matrix_NP, y) for r in (0.0, 0.1)
    )
    assert np.abs(ridge.coef_).sum() < 0.9 * np.abs(plain.coef_).sum()
    grid = GridSearchCV(BestSubsetClassifier(), {"size": [1, 5]}, cv=3).fit(drawn.matrix_NP, y)
    assert grid.best_params_ == {"size": 5}
    assert clone(plain).get_params() == plain.get_params()


def test_cox_takes_three_kinds_of_y_and_ranks_risk():
    drawn, y = recipe_data("cox", columns=20)
    both = BestSubsetCox(size=5).fit(drawn.matrix_NP, y)
    named = np.array(
        list(zip(drawn.event_N > 0, drawn.y_N, strict=True)), dtype=[("event", bool), ("t", float)]
    )
    other = BestSubsetCox(size=5).fit(drawn.matrix_NP, named)
    np.testing.assert_allclose(both.coef_, other.coef_)
    assert both.score(drawn.matrix_NP, y) > 0.9
    assert BestSubsetCox(size=1).fit(drawn.matrix_NP, drawn.y_N).coef_.any()
    cross = BestSubsetCox(criterion="cv", cv=3, max_size=8, random_state=0)
    assert set(drawn.true_K) <= set(cross.fit(drawn.matrix_NP, y).get_support(indices=True))


def test_concordance_counts_pairs():
    generator = np.random.default_rng(0)
    time, risk = generator.integers(0, 8, 60).astype(float), generator.integers(0, 6, 60) * 1.0
    event, weight = (generator.random(60) < 0.6) * 1.0, generator.random(60)
    good = pairs = 0.0
    for i in range(60):
        for j in range(60):
            later = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if event[i] and later and i != j:
                pairs += weight[i] * weight[j]
                good += weight[i] * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    found = concordance(risk, Survival(time, event), weight_N=weight)
    assert found == pytest.approx(good / pairs)


def test_plot_draws_the_path():
    drawn, y = recipe_data()
    figure = BestSubsetRegressor(max_size=6).fit(drawn.matrix_NP, y).plot()
    assert len(figure.axes) == 2
    assert len(figure.axes[1].lines) == 5


def test_real_sets_against_full_models():
    X, y = load_diabetes(return_X_y=True)
    chosen = BestSubsetRegressor(criterion="bic").fit(X, y)
    assert chosen.size_ < 8
    assert chosen.score(X, y) > LinearRegression().fit(X, y).score(X, y) - 0.02
    X, y = load_breast_cancer(return_X_y=True)
    assert BestSubsetClassifier(max_size=8).fit(X, y).score(X, y) > 0.96


# Bad input


def plain_rows(num_columns=6):
    generator = np.random.default_rng(1)
    X = generator.normal(size=(120, num_columns))
    return X, X[:, 0] * 2 + generator.normal(size=120)


def test_constant_columns_are_never_chosen():
    X, y = plain_rows()
    X[:, 3] = 7.0
    estimator = BestSubsetRegressor(size=5).fit(X, y)
    assert not estimator.get_support()[3]
    with pytest.raises(UserError, match=r"size is 6; it must be from 0 .* to 5"):
        BestSubsetRegressor(size=6).fit(X, y)
    with pytest.raises(UserError, match="column 3 is constant and cannot be always included"):
        BestSubsetRegressor(always_include=[3]).fit(X, y)


@pytest.mark.parametrize("face", [BestSubsetRegressor, BestSubsetClassifier, BestSubsetCox])
def test_of_duplicate_columns_one_is_enough(face):
    X, y = plain_rows()
    X[:, 5] = X[:, 0]
    y = (y > 0) * 1.0 if face is BestSubsetClassifier else y
    estimator = face(max_size=6).fit(X, y)
    assert np.isfinite(estimator.coef_).all()
    assert estimator.get_support()[[0, 5]].sum() == 1


def test_perfect_separation_ends_with_a_flag():
    X, _ = plain_rows()
    y = (X[:, 2] > 0).astype(int)
    estimator = BestSubsetClassifier().fit(X, y)
    assert estimator.separated_
    assert estimator.get_support(indices=True).tolist() == estimator.unbounded_.tolist() == [2]
    assert max(row["size"] for row in estimator.get_path()) == 1
    assert np.isfinite(estimator.coef_).all()
    usual = BestSubsetClassifier().fit(X, np.random.default_rng(0).integers(0, 2, 120))
    assert not usual.separated_


@pytest.mark.parametrize("face", [BestSubsetClassifier, BestSubsetCox])
def test_a_coefficient_without_a_maximum_is_named(face):
    X, y = plain_rows()
    y = (y > 0) * 1.0
    rare = (y == 1) * (np.arange(120) % 3 == 0)  # in one class only
    if face is BestSubsetCox:
        time = np.random.default_rng(2).exponential(np.exp(-X[:, 0]))
        y = np.c_[time, 1.0 - rare]  # and in no row with an event
    usual = face(always_include=[4], max_size=3).fit(X, y)
    assert usual.get_support()[[0, 4]].all()
    assert not len(usual.unbounded_)
    X[:, 4] = rare
    one_sided = face(always_include=[4], max_size=3).fit(X, y)
    assert one_sided.get_support()[[0, 4]].all()
    assert one_sided.unbounded_.tolist() == [4]
    held = face(always_include=[4], max_size=3, ridge=1e-2).fit(X, y)
    assert not len(held.unbounded_)


@pytest.mark.parametrize("search", ["sequential", "golden"])
def test_near_separation_is_no_reason_for_a_useless_column(search):
    recipe = Recipe(model="logistic", rows=500, columns=2000, true_columns=10)
    drawn = draw(recipe, seed=15)
    estimator = BestSubsetClassifier(search=search, max_size=36).fit(drawn.matrix_NP, drawn.y_N)
    assert estimator.get_support(indices=True).tolist() == sorted(drawn.true_K.tolist())
    rows = {row["size"]: row for row in estimator.get_path()}
    # An 11th column leaves no row in doubt; its textbook criterion would be the lowest.
    price = np.log(500) + 2 * np.log(2000)
    assert rows[11]["deviance"] + 11 * price < rows[10]["deviance"] + 10 * price
    assert rows[11]["ebic"] > rows[10]["ebic"]


def test_more_columns_than_rows_and_every_column():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(30, 80))
    y = X[:, 7] * 3 + generator.normal(size=30) * 0.1
    assert BestSubsetRegressor(max_size=4).fit(X, y).get_support()[7]
    X, y = plain_rows()
    whole = BestSubsetRegressor(size=6).fit(X, y)
    np.testing.assert_allclose(whole.coef_, LinearRegression().fit(X, y).coef_, rtol=1e-8)


def test_what_cannot_be_learnt_from_is_refused():
    X, y = plain_rows()
    with pytest.raises(UserError, match="all rows are censored"):
        BestSubsetCox().fit(X, np.c_[y, np.zeros(120)])
    with pytest.raises(UserError, match="one class only"):
        BestSubsetClassifier().fit(X, np.ones(120))
    with pytest.raises(UserError, match="one class only"):
        BestSubsetClassifier().fit(X, np.arange(120) % 2, sample_weight=np.arange(120) % 2)
    with pytest.raises(ValueError, match="NaN"):
        BestSubsetRegressor().fit(np.where(X > 2, np.nan, X), y)
    with pytest.raises(UserError, match="the time of row 0 is nan"):
        BestSubsetCox().fit(X, np.c_[np.full(120, np.nan), np.ones(120)])
    with pytest.raises(UserError, match="an event is 2; events are 1"):
        BestSubsetCox().fit(X, np.c_[y, np.full(120, 2.0)])
    with pytest.raises(ValueError, match="at least one non-zero"):
        BestSubsetRegressor().fit(X, y, sample_weight=np.zeros(120))
    with pytest.raises(UserError, match="a count is -"):
        BestSubsetRegressor(loss="poisson").fit(X, y)
    with pytest.raises(UserError, match="groups has 2 labels for 6 columns"):
        BestSubsetRegressor(groups=[0, 1]).fit(X, y)
    with pytest.raises(UserError, match="always_include names 9"):
        BestSubsetRegressor(always_include=[9]).fit(X, y)


def test_rows_of_weight_zero_are_not_there():
    X, y = plain_rows()
    weight = (np.arange(120) < 80) * 1.0
    wild = X.copy()
    wild[80:] *= 100
    one = BestSubsetRegressor().fit(wild, y, sample_weight=weight)
    other = BestSubsetRegressor().fit(X[:80], y[:80])
    np.testing.assert_allclose(one.coef_, other.coef_)
