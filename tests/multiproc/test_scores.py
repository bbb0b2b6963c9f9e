"""Figures over ranks against scikit-learn on all rows at once."""

from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import load_schema
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.train.prior import fit_prior
from lfm4ads.train.scores import ScoreFile, Scores, figure_rows, score_pass
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.unit.train.test_prior import Day
from tests.unit.train.test_scores import TASKS, logits_of
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
ROWS = 450


def write(ranks, schema, batches, path, *, forward=logits_of):
    scores = Scores(schema, TASKS)
    with ExitStack() as stack:
        file = ScoreFile(path, schema, TASKS, stack=stack)
        sinks = [scores.update, file.update]
        score_pass(batches, forward=forward, sinks=sinks, ranks=ranks)
    return scores.reduce(ranks)


def body(ranks, folder, out):
    """Score a day; fail to score it; fit its base rates."""
    schema, batches = load_schema(folder), read_batches(folder, ranks=ranks)
    last = ranks.rank == ranks.world - 1
    path = out / "good" / f"part-{ranks.rank}.parquet"
    found = {"figures": figure_rows(write(ranks, schema, batches, path), split="test")}

    def spoilt(batch):
        return logits_of(batch) * (np.inf if last and batch is batches[1] else 1)

    try:
        write(ranks, schema, batches, out / "bad" / path.name, forward=spoilt)
    except UserError as error:
        found["refusal"] = (str(error), error.everywhere)

    heads = ScenarioHeads(4, scenarios=3, tasks=2)
    fit_prior(heads, Day(batches), day=20260101, tasks=[2, 0], ranks=ranks)
    return found | {"prior": heads.bias.detach().numpy()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("scores") / "data", days=1, rows=ROWS)


@pytest.fixture(scope="module")
def jobs(folder, tmp_path_factory):
    """(every rank's result, folder of files) by number of ranks."""
    out = {world: tmp_path_factory.mktemp(f"ranks-{world}") for world in (1, 2)}
    return {world: (run_ranks(body, world, folder, path), path) for world, path in out.items()}


WORLDS = pytest.mark.parametrize("world", [1, 2])


def rows_of(path):
    files = sorted((path / "good").iterdir())
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return {name: np.array(table[name].to_pylist(), dtype=float) for name in table.column_names}


@WORLDS
def test_figures_are_those_of_all_rows_at_once(jobs, world):
    results, path = jobs[world]
    rows = rows_of(path)
    assert len(rows["row_id"]) == len(np.unique(rows["row_id"])) == ROWS
    for result in results:
        assert result["figures"] == results[0]["figures"]
        assert len(result["figures"]) == 7
        for found in result["figures"]:
            chosen = ~np.isnan(rows[f"label_{found['task']}"])
            if found["scenario"] != "all":
                chosen &= rows["scenario"] == int(found["scenario"])
            check_figures(found, {name: column[chosen] for name, column in rows.items()})


def check_figures(found, rows):
    labels, logits = rows[f"label_{found['task']}"], rows[f"logit_{found['task']}"]
    probability = 1 / (1 + np.exp(-logits))
    loss, rate = log_loss(labels, probability, labels=[0, 1]), labels.mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert (found["rows"], found["positives"]) == (len(labels), labels.sum())
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert found["log_loss"] == pytest.approx(loss, rel=1e-9)
    assert found["normalized_entropy"] == pytest.approx(loss / entropy, rel=1e-9)
    assert found["calibration"] == pytest.approx(probability.mean() / rate, rel=1e-9)
    mine = [rows["user"] == user for user in np.unique(rows["user"])]
    mixed = [own for own in mine if 0 < labels[own].sum() < own.sum()]
    gauc = np.average(
        [roc_auc_score(labels[own], logits[own]) for own in mixed],
        weights=[own.sum() for own in mixed],
    )
    assert found["gauc"] == pytest.approx(gauc, rel=1e-9)


def test_figures_and_base_rates_do_not_depend_on_the_number_of_ranks(jobs):
    (alone, _), (pair, _) = jobs[1], jobs[2]
    for one, other in zip(alone[0]["figures"], pair[0]["figures"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = value if isinstance(value, str) else pytest.approx(value, rel=1e-12)
            assert other[name] == same, name
    for result in pair:
        np.testing.assert_allclose(result["prior"], alone[0]["prior"], rtol=1e-6)
    assert np.unique(alone[0]["prior"]).size == 6


@WORLDS
def test_a_score_that_is_not_finite_on_one_rank_is_everyones_and_leaves_no_file(jobs, world):
    results, path = jobs[world]
    for result in results:
        sentence, everywhere = result["refusal"]
        assert sentence.startswith("a score of day 20260101 is not finite; train again")
        assert everywhere
    assert list((path / "bad").iterdir()) == []
    assert len(list((path / "good").iterdir())) == world
