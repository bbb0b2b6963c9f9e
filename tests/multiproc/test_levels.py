"""Quantisers are fitted on the same sample whatever the number of ranks."""

import numpy as np
import pytest

from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.nn.numbers import NumberConfig, NumeralNumbers
from lfm4ads.train import levels
from tests.gloo import run_ranks
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
DAY, ROWS = 20260101, 300


def edges(ranks, folder, *, sample_rows, lanes=4):
    """Return the edges of both numbers, fitted on so many rows of the first day."""
    levels._SAMPLE_ROWS = sample_rows
    dataset = open_dataset(folder, ranks)
    config = ReaderConfig(batch_size=lanes * 8, lanes=lanes, window_rows=16)
    reader = Reader(dataset, config=config, ranks=ranks, seed=1)
    names = dataset.schema.select(kind="number")
    features = [dataset.schema.features[name] for name in names]
    # In another order than the schema's: an encoder takes its own columns.
    numbers = NumberConfig(kind="equal_frequency", levels=16)
    encoder = NumeralNumbers(features[::-1], names[::-1], config=numbers)
    levels.fit_levels(encoder, reader, schema=reader.dataset.schema, day=DAY, ranks=ranks)
    assert encoder.quantiser.fitted
    return encoder.quantiser.edges.numpy()


def body(ranks, folder):
    return {
        "all": edges(ranks, folder, sample_rows=10 * ROWS),
        "sample": edges(ranks, folder, sample_rows=20),
        "sample in other steps": edges(ranks, folder, sample_rows=20, lanes=6),
        "other sample": edges(ranks, folder, sample_rows=21),
    }


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("levels") / "data", days=1, rows=ROWS)
    return {world: run_ranks(body, world, folder) for world in (1, 2, 4)}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_edges_do_not_depend_on_the_number_of_ranks(jobs, world):
    for result in jobs[world]:
        for name, value in jobs[1][0].items():
            np.testing.assert_array_equal(result[name], value, err_msg=name)
        np.testing.assert_array_equal(result["sample"], result["sample in other steps"])


def test_a_sample_is_not_all_rows_and_its_edges_would_tell(jobs):
    found = jobs[1][0]
    assert np.isfinite(found["all"]).all()
    assert np.abs(found["all"] - found["sample"]).max() > 0.1
    assert not np.array_equal(found["sample"], found["other sample"])
