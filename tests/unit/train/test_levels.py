"""Levels of numbers, fitted on one training day."""

import numpy as np
import pytest
import torch
from torch import nn

from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.nn.numbers import LinearNumbers, NumberConfig, NumeralNumbers
from lfm4ads.nn.quantise import Quantiser
from lfm4ads.train.levels import fit_levels
from tests.batches import one_rank, read_batches
from tests.worlds import tiny_table, with_column, write_table

DAY = 20260101
WORDS = ("mean", "std", "log")


def reader_of(folder):
    config = ReaderConfig(batch_size=64, lanes=4, window_rows=48)
    return Reader(open_dataset(folder, one_rank()), config=config, ranks=one_rank(), seed=1)


def encoder_of(schema, names, *, levels=8, **kinds):
    features = [schema.features[name] for name in names]
    return NumeralNumbers(
        features, names, config=NumberConfig(kind="equal_frequency", levels=levels, kinds=kinds)
    )


def test_every_encoder_gets_the_edges_of_its_own_numbers(tiny, schema):
    model = nn.ModuleDict(
        {
            "user": encoder_of(schema, ["age"], age="integer"),
            "item": encoder_of(schema, ["price"]),
            "both": encoder_of(schema, ["price", "age"], levels=5),
        }
    )
    fit_levels(model, reader_of(tiny), schema=schema, day=DAY, ranks=one_rank())
    rows = np.concatenate(
        [batch.numbers[batch.valid].numpy() for batch in read_batches(tiny)], dtype=np.float32
    )
    assert len(rows) == 300
    for encoder in model.values():
        own = [["age", "price"].index(name) for name in encoder.names]
        wanted = Quantiser(
            *([getattr(schema.features[n], key) for n in encoder.names] for key in WORDS),
            kinds=encoder.quantiser._kinds,
            levels=encoder.quantiser.levels,
        )
        wanted.fit(rows[:, own])
        assert torch.equal(encoder.quantiser.edges, wanted.edges)
        assert encoder.quantiser.edges.isfinite().any()


def test_later_days_do_not_matter(tmp_path):
    edges = []
    for factor in (1.0, 100.0):
        folder = tmp_path / str(factor)
        write_table(folder, tiny_table(200), day=DAY)
        later = tiny_table(200, day=1, first_row=200)
        prices = [None if p is None else p * factor for p in later["price"].to_pylist()]
        write_table(folder, with_column(later, "price", prices), day=DAY + 1)
        reader = reader_of(folder)
        fitted = []
        for day in (DAY, DAY + 1):
            encoder = encoder_of(reader.dataset.schema, ["price"])
            fit_levels(encoder, reader, schema=reader.dataset.schema, day=day, ranks=one_rank())
            fitted.append(encoder.quantiser.edges)
        edges.append(fitted)
    assert torch.equal(edges[0][0], edges[1][0])
    assert not torch.equal(edges[0][1], edges[1][1]), "a day that is fitted on would show"


def test_edges_go_into_the_state_of_the_model(tiny, schema):
    encoder, other = (encoder_of(schema, ["age", "price"]) for _ in range(2))
    fit_levels(encoder, reader_of(tiny), schema=schema, day=DAY, ranks=one_rank())
    other.load_state_dict(encoder.state_dict())
    numbers = read_batches(tiny)[0].numbers
    assert torch.equal(other.quantiser(numbers), encoder.quantiser(numbers))
    assert len(encoder.quantiser(numbers).unique()) > 4


def test_a_model_without_quantisers_reads_nothing(schema):
    class Unread:
        """A reader nobody may ask."""

        def day(self, _):
            pytest.fail("the day was read")

    fit_levels(LinearNumbers(2, dim=4), Unread(), schema=schema, day=DAY, ranks=one_rank())
