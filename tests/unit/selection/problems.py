"""Small tasks of the four models, with everything a hard design has."""

import itertools

import numpy as np

from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.task import Task

MODELS = ("linear", "logistic", "poisson", "cox")


def make_task(
    model,
    *,
    rows=150,
    columns=12,
    true=4,
    seed=0,
    rho=0.8,
    signal=1.0,
    levels=None,
    weighted=False,
    **options,
):
    recipe = Recipe(
        model=model,
        rows=rows,
        columns=columns,
        true_columns=min(true, columns),
        design="autoregressive",
        rho=rho,
        signal_ratio=signal,
        mixed_signs=True,
        time_levels=levels,
    )
    drawn = draw(recipe, seed=seed)
    generator = np.random.default_rng(seed)
    weight_N = generator.integers(1, 4, rows).astype(float) if weighted else np.ones(rows)
    event_N = drawn.event_N if model == "cox" else None
    task = Task(
        model=model,
        matrix=drawn.matrix_NP,
        y_N=drawn.y_N,
        weight_N=weight_N,
        event_N=event_N,
        **options,
    )
    return task, drawn


def exhaustive(problem, *, size):
    every = itertools.combinations(range(problem.num_columns), size)
    return min((problem.fit(np.array(one), start=None) for one in every), key=lambda f: f.objective)
