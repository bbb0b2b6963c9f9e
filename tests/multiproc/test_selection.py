"""The same subset from Parquet on 1, 2 and 4 ranks, and the one of rows in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.selection.distributed import RowsOptions, select_rows
from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.rows import ParquetRows, RowColumns
from lfm4ads.selection.select import SelectOptions, select
from lfm4ads.selection.task import Task
from tests.gloo import run_ranks

pytestmark = pytest.mark.multiproc
NAMES = [f"x{j}" for j in range(12)]
MODELS = ("linear", "logistic", "cox")


def drawn_rows(model):
    recipe = Recipe(
        model=model,
        rows=600,
        columns=12,
        true_columns=3,
        signal_ratio=1.5,
        mixed_signs=True,
        time_levels=40,
    )
    drawn = draw(recipe, seed=5)
    weight_N = np.random.default_rng(0).integers(1, 3, 600).astype(float)
    return drawn, weight_N


def write(folder, model):
    drawn, weight_N = drawn_rows(model)
    matrix = drawn.matrix_NP.astype(np.float32)
    table = pa.table(
        {name: matrix[:, j] for j, name in enumerate(NAMES)}
        | {"y": drawn.y_N, "d": drawn.event_N, "w": weight_N}
    )
    for part in range(2):
        rows = table.slice(part * 300, 300)
        pq.write_table(rows, folder / f"part-{part}.parquet", row_group_size=80)
    return Task(
        model=model,
        matrix=matrix.astype(float),
        y_N=drawn.y_N,
        weight_N=weight_N,
        event_N=drawn.event_N if model == "cox" else None,
        ties="breslow",
    )


def found(ranks, folder, models):
    answers = {}
    for model in models:
        columns = RowColumns(
            candidates=NAMES, label="y", weight="w", event="d" if model == "cox" else None
        )
        files = sorted(Path(folder, model).glob("*.parquet"))
        source = ParquetRows(
            files, columns=columns, rank=ranks.rank, world=ranks.world, batch_rows=100
        )
        options = RowsOptions(model=model, select=SelectOptions(size=3, screening=8))
        selection = select_rows(source, options, sum_over_ranks=ranks.sum)
        answers[model] = selection.coefficients
    return answers


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_answer_does_not_depend_on_ranks(tmp_path):
    tasks = {}
    for model in MODELS:
        (tmp_path / model).mkdir()
        tasks[model] = write(tmp_path / model, model)
    every = [
        one
        for world in (1, 2, 4)
        for one in run_ranks(found, world, str(tmp_path), MODELS, seconds=150)
    ]
    for model, task in tasks.items():
        wanted = select(task, SelectOptions(size=3)).coefficients
        true, _ = drawn_rows(model)
        assert set(true.true_K) <= set(wanted.columns_K)
        for one in every:
            np.testing.assert_array_equal(one[model].columns_K, wanted.columns_K)
            np.testing.assert_allclose(
                one[model].values_K, every[0][model].values_K, rtol=1e-8, atol=1e-12
            )
            np.testing.assert_allclose(one[model].values_K, wanted.values_K, rtol=1e-5)


def all_censored(ranks, folder):
    columns = RowColumns(candidates=NAMES[:3], label="y", event="zero")
    source = ParquetRows(
        [Path(folder, "rows.parquet")], columns=columns, rank=ranks.rank, world=ranks.world
    )
    try:
        select_rows(source, RowsOptions(model="cox"), sum_over_ranks=ranks.sum)
    except UserError as error:
        return str(error)
    return ""


def test_a_rank_without_rows_takes_part_and_all_ranks_refuse_together(tmp_path):
    columns = {name: np.arange(9.0) % (j + 2) for j, name in enumerate(NAMES[:3])}
    table = pa.table(columns | {"y": np.arange(9.0), "zero": np.zeros(9)})
    pq.write_table(table, tmp_path / "rows.parquet")
    sentences = run_ranks(all_censored, 2, str(tmp_path))
    assert sentences == ["all rows are censored; a Cox model needs at least one event"] * 2


def test_files_without_a_named_column_or_with_nan_are_refused(tmp_path):
    table = pa.table({"a": [1.0, float("nan")], "b": [1.0, 2.0], "y": [0.0, 1.0]})
    file = tmp_path / "rows.parquet"
    pq.write_table(table, file)
    with pytest.raises(UserError, match="has no column c"):
        ParquetRows([file], columns=RowColumns(candidates=["c"], label="y"))
    source = ParquetRows([file], columns=RowColumns(candidates=["a", "b"], label="y"))
    with pytest.raises(UserError, match="NaN or infinity in column a"):
        select_rows(source, RowsOptions(model="linear"), sum_over_ranks=np.copy)
