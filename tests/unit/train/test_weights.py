"""What the first training day is counted for, and the weights made of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.train.weights import (
    RepeatConfig,
    Survey,
    balance_weights,
    exposure_index,
    repeat_weight,
    take_survey,
)
from tests.batches import one_rank

REPEAT = RepeatConfig(feature="price")


def with_number(batch, schema, name, raw):
    """Return the batch with raw values of one number, standardised as the reader does."""
    spec = schema.features[name]
    scaled = torch.as_tensor(raw, dtype=torch.float32)
    if spec.log:
        scaled = scaled.sign() * scaled.abs().log1p()
    numbers = batch.numbers.clone()
    numbers[:, schema.select(kind="number").index(name)] = (scaled - spec.mean) / spec.std
    return replace(batch, numbers=numbers)


@pytest.fixture
def exposed(batches, schema):
    """Rows with 0, 1, 2, ... earlier exposures, and some with none known."""
    changed = []
    for batch in batches:
        raw = torch.randint(0, 12, (len(batch),)).float()
        raw[torch.rand(len(batch)) < 0.2] = torch.nan
        changed.append(with_number(batch, schema, "price", raw))
    return changed


def survey_of(batches, schema, *, repeat=REPEAT):
    return take_survey(batches, schema=schema, repeat=repeat, ranks=one_rank())


@pytest.mark.parametrize("name", ["age", "price"])
def test_the_index_undoes_log_and_scale(batches, schema, name):
    schema = replace(
        schema,
        features={**schema.features, name: replace(schema.features[name], mean=1.3, std=0.7)},
    )
    raw = torch.arange(64.0)
    raw[5], raw[6] = torch.nan, -3.0
    n = exposure_index(with_number(batches[0], schema, name, raw), feature=name, schema=schema)
    wanted = 1 + torch.arange(64.0)
    wanted[5] = wanted[6] = 1
    torch.testing.assert_close(n, wanted, rtol=1e-4, atol=1e-4)


def test_weights_fall_with_the_exposure_and_their_mean_is_one(exposed, schema):
    mean = survey_of(exposed, schema).repeat_mean
    seen = {}
    total, rows = 0.0, 0
    for batch in exposed:
        weight = repeat_weight(batch, repeat=REPEAT, schema=schema) / mean
        n = exposure_index(batch, feature="price", schema=schema).round().int()
        total += weight[batch.valid].sum().item()
        rows += int(batch.valid.sum())
        seen.update(zip(n[batch.valid].tolist(), weight[batch.valid].tolist(), strict=True))
    assert total / rows == pytest.approx(1, abs=1e-5)
    assert set(seen) == set(range(1, 13))
    for n, weight in seen.items():
        assert weight == pytest.approx(seen[1] / n**0.5, rel=1e-4)
    assert seen[12] < 1 < seen[1]


def test_without_gamma_or_feature_all_weigh_one(exposed, schema):
    for repeat in (RepeatConfig(), RepeatConfig(feature="price", gamma=0.0)):
        assert survey_of(exposed, schema, repeat=repeat).repeat_mean == 1
        weight = repeat_weight(exposed[0], repeat=repeat, schema=schema)
        assert torch.equal(weight, torch.ones(64))


def test_a_survey_counts_labels_and_positives_of_valid_rows(exposed, schema):
    survey = survey_of(exposed, schema)
    labels, positives = (np.zeros((2, 3, 3), dtype=np.int64) for _ in range(2))
    for batch in exposed:
        for row in range(len(batch)):
            for task in range(3):
                if batch.valid[row] and batch.masks[row, task]:
                    at = (int(batch.domain[row]), int(batch.scenario[row]), task)
                    labels[at] += 1
                    positives[at] += int(batch.labels[row, task])
    assert (survey.labels_DST == labels).all()
    assert (survey.positives_DST == positives).all()
    assert survey.rows == 300
    assert 0 < positives.sum() < labels.sum() < 900


def test_a_survey_survives_json(exposed, schema):
    survey = survey_of(exposed, schema)
    again = Survey.from_dict(json.loads(json.dumps(survey.to_dict())))
    assert (again.labels_DST == survey.labels_DST).all()
    assert again.labels_DST.dtype == survey.labels_DST.dtype
    assert (again.positives_DST == survey.positives_DST).all()
    assert (again.rows, again.repeat_mean) == (survey.rows, survey.repeat_mean)


@pytest.mark.parametrize(("balance", "axes"), [("domain", (1,)), ("task", ())])
def test_balance_gives_equal_label_mass_and_keeps_its_sum(exposed, schema, balance, axes):
    survey = survey_of(exposed, schema)
    labels_DT = survey.labels_DST.sum(axis=1)
    mass = labels_DT * balance_weights(survey, balance=balance)
    assert mass.sum() == pytest.approx(labels_DT.sum())
    parts = mass.sum(axis=axes)[labels_DT.sum(axis=axes) > 0]
    np.testing.assert_allclose(parts, parts[0])
    before = labels_DT.sum(axis=axes)
    assert before[before > 0].min() < 0.95 * before.max(), "unequal without weights"
    assert len(parts) == (2 if axes else 4)


def test_what_was_never_labelled_keeps_weight_one(exposed, schema):
    weights = balance_weights(survey_of(exposed, schema), balance="task")
    never = survey_of(exposed, schema).labels_DST.sum(axis=1) == 0
    assert never.sum() == 2
    assert (weights[never] == 1).all()
    nothing = survey_of([], schema)
    assert (balance_weights(nothing, balance="domain") == 1).all()
    assert (nothing.rows, nothing.repeat_mean) == (0, 1.0)


@pytest.mark.parametrize("feature", ["seen", "tags"])
def test_a_feature_that_is_no_number_is_refused(exposed, schema, feature):
    with pytest.raises(UserError, match=f"is {feature}, but the features of kind number are age"):
        survey_of(exposed, schema, repeat=RepeatConfig(feature=feature))


def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match=r"repeat\.gamma must be at least 0, got -1"):
        RepeatConfig(gamma=-1)
