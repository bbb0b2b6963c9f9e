"""Pair fields against a loop over rows: each row's events, lengths, ages and vectors."""

import math
from dataclasses import replace

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import Feature
from lfm4ads.nn.fields import vector_spans
from lfm4ads.nn.pairs import (
    InterestConfig,
    PairConfig,
    PairFields,
    SimilarityConfig,
    check_pairs,
    unpooled_tables,
)
from lfm4ads.nn.tables import Tables, TableSet
from lfm4ads.nn.temporal import TemporalConfig
from tests.batches import ages_of, lists_of, pad, sparse_of, take
from tests.unit.nn.lookup import random_tables, weight_of

RECENTLY = InterestConfig(behaviours=("recent",), targets=("item_id",))
BOTH = InterestConfig(behaviours=("recent", "recent_tags"), targets=("item_id", "tags"))
LOOK = {"look": SimilarityConfig(user="taste", item="picture")}
NO_GAPS = TemporalConfig(gaps=False)
CONFIGS = {
    "interest": PairConfig(interests={"recently": RECENTLY}),
    "parallel": PairConfig(interests={"both": BOTH}),
    "heads": PairConfig(
        interests={"both": BOTH}, temporal=TemporalConfig(heads=2, positions=False)
    ),
    "no gaps": PairConfig(interests={"both": BOTH, "recently": RECENTLY}, temporal=NO_GAPS),
    "similarity": PairConfig(similarities=LOOK, similarity_dim=6),
    "all": PairConfig(
        interests={"recently": RECENTLY, "both": BOTH}, similarities=LOOK, similarity_dim=6
    ),
}
TAGS = Feature(
    kind="sequence", side="user", table="tag", times="recent_times", max_length=3, nullable=False
)
SETS = {"main": TableSet(), "wide": TableSet(dim=16)}


@pytest.fixture
def schema(schema):
    """The tiny schema, whose events have a tag each beside their item."""
    return with_feature(schema, "recent_tags", TAGS)


def with_feature(schema, name, feature):
    return replace(schema, features={**schema.features, name: feature})


@pytest.fixture
def batch(schema, batch):
    lists, ages = lists_of(batch.sparse), dict(batch.ages)
    lists["recent_tags"] = [[(3 * one + 1) % 32 for one in row] for row in lists["recent"]]
    ages["recent_tags"] = ages["recent"]
    sparse = sparse_of({name: lists[name] for name in schema.select(sparse=True)})
    return replace(batch, sparse=sparse, ages=ages)


def build(schema, config, *, table_set="wide"):
    features = [*schema.select(sparse=True)]
    unpooled = unpooled_tables(schema, config)
    tables = random_tables(Tables(schema, features, sets=SETS, unpooled=unpooled))
    pairs = PairFields(schema, tables=tables, table_set=table_set, config=config)
    for parameter in pairs.parameters():
        torch.nn.init.normal_(parameter)
    return tables, pairs


def vector_of(name, row, *, batch, schema):
    start, stop = vector_spans(schema)[name]
    return batch.vectors[row, start:stop]


def interest_of(module, one, row, *, lists, ages, weights):
    """sum_i a_i (e_i + p_i) * (v + p_0) of one row, a = softmax(<e_i + p_i, v + p_0> / sqrt D)."""
    length = len(lists[one.behaviours[0]][row])
    target = torch.cat(
        [
            weights[name][lists[name][row]].mean(0) if lists[name][row] else
            torch.zeros(weights[name].shape[1])
            for name in one.targets
        ]
    )  # fmt: skip
    if not length:
        return torch.zeros_like(target)
    tables = [table for table in (module.positions, module.gaps) if table is not None]
    query = target + sum(table[0] for table in tables)
    events = []
    for at in range(length):
        event = torch.cat([weights[name][lists[name][row][at]] for name in one.behaviours])
        if module.positions is not None:
            event = event + module.positions[length - at]
        if module.gaps is not None:
            age = ages[one.behaviours[0]][row][at].item()
            event = event + module.gaps[min(1 + math.floor(math.log2(1 + age)), 31)]
        events.append(event)
    return attend(module, query, torch.stack(events))


def attend(module, query, events):
    if module.query is None:
        shares = torch.softmax(events @ query / math.sqrt(len(query)), dim=0)
        return shares @ (events * query)
    queries, keys, values = (
        linear(one).unflatten(-1, (2, -1))
        for linear, one in ((module.query, query), (module.key, events), (module.value, events))
    )
    heads = []
    for head in range(2):
        scores = keys[:, head] @ queries[head] / math.sqrt(len(queries[head]))
        heads.append(torch.softmax(scores, dim=0) @ (values[:, head] * queries[head]))
    return torch.cat(heads)


def similarity_of(module, user, item):
    missing = user.isnan().any() or item.isnan().any()
    cosine = 0.0 if missing else float(user @ item / (user.norm() * item.norm()))
    level = math.floor((cosine + 1) / 2 * (module.levels - 1))
    return module.numerals(torch.tensor([[-1 if missing else level]]))[0, 0]


@pytest.mark.parametrize("table_set", SETS)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_every_row_is_the_loop(schema, batch, name, table_set):
    config = CONFIGS[name]
    check_pairs(schema, config)
    tables, pairs = build(schema, config, table_set=table_set)
    found = pairs(tables(batch.sparse), batch)
    assert found.shape == (len(batch), pairs.width)
    assert pairs.names == [*config.interests, *config.similarities]
    lists, ages = lists_of(batch.sparse), ages_of(batch)
    weights = {one: weight_of(tables, one, table_set, schema) for one in schema.select(sparse=True)}
    for row in range(len(batch)):
        parts = [
            interest_of(pairs.temporal[key], one, row, lists=lists, ages=ages, weights=weights)
            for key, one in config.interests.items()
        ]
        parts += [
            similarity_of(
                pairs.similarity[key],
                *(
                    vector_of(side, row, batch=batch, schema=schema)
                    for side in (one.user, one.item)
                ),
            )
            for key, one in config.similarities.items()
        ]
        assert [len(part) for part in parts] == pairs.dims
        torch.testing.assert_close(found[row], torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_data_has_what_the_loop_must_see(batch):
    lists = lists_of(batch.sparse)
    assert {len(row) for row in lists["recent"]} == {0, 1, 2, 3}
    assert {0, 1, 2} <= {len(row) for row in lists["tags"]}
    assert len(torch.cat(ages_of(batch)["recent"]).log2().floor().unique()) > 4
    assert 0 < batch.vectors.isnan().any(dim=1).float().mean() < 1


def test_other_rows_and_padding_leave_a_row_as_it_is(schema, batch):
    tables, pairs = build(schema, CONFIGS["all"])
    whole = pairs(tables(batch.sparse), batch)
    few = pad(take(batch, [5, 2]), 3)
    found = pairs(tables(few.sparse), few)
    torch.testing.assert_close(found[:2], whole[[5, 2]])
    assert torch.equal(found[2:, : sum(pairs.dims[:2])], torch.zeros(3, sum(pairs.dims[:2])))


def test_gradients_reach_the_rows_of_events_and_targets(schema, batch):
    tables, pairs = build(schema, CONFIGS["interest"])
    pairs(tables(batch.sparse), batch).square().sum().backward()
    lists = lists_of(batch.sparse)
    seen = {
        one
        for events, target in zip(lists["recent"], lists["item_id"], strict=True)
        for one in ([*events, *target] if events else [])
    }
    gradient = weight_of(tables, "recent", "wide", schema).grad
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == seen


def test_tables_read_id_by_id_are_those_of_the_behaviours(schema):
    assert list(unpooled_tables(schema, CONFIGS["all"])) == ["item", "tag"]
    assert list(unpooled_tables(schema, CONFIGS["similarity"])) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dropout": 1.0}, r"pairs\.dropout must be in \[0, 1\), got 1\.0"),
        (
            {"interests": {"look": RECENTLY}, "similarities": LOOK},
            r"pairs\.interests and pairs\.similarities both have a look",
        ),
    ],
)
def test_impossible_configs_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        PairConfig(**wrong)


@pytest.mark.parametrize(
    ("behaviours", "targets"), [((), ()), (("recent", "recent_tags"), ("item_id",))]
)
def test_an_interest_needs_a_target_for_each_behaviour(behaviours, targets):
    with pytest.raises(ValueError, match="as many targets as behaviours, at least one, got"):
        InterestConfig(behaviours=behaviours, targets=targets)


def interest(behaviour, target):
    return {"interests": {"x": InterestConfig(behaviours=(behaviour,), targets=(target,))}}


REFUSED = [
    (
        interest("tags", "hour"),
        r"interests\.x names tags, which is no sequence feature; those are recent, recent_tags",
    ),
    (interest("recent", "age"), r"interests\.x names target age, which is no sparse feature"),
    (
        interest("recent", "tags"),
        r"recent reads table item and its target tags reads tag; a behaviour shares its target's",
    ),
    (interest("endless", "item_id"), r"give endless a max_length in schema\.yaml"),
    (
        interest("timeless", "item_id"),
        r"timeless has no times column in schema\.yaml; name one or set pairs\.temporal\.gaps=fal",
    ),
    (
        {
            "interests": {
                "x": InterestConfig(behaviours=("recent", "longer"), targets=("item_id",) * 2)
            }
        },
        r"recent and longer must tell the same events; give both one times column and one max_len",
    ),
    (
        {
            "interests": {
                "x": InterestConfig(behaviours=("recent", "elsewhere"), targets=("item_id",) * 2)
            }
        },
        r"recent and elsewhere must tell the same events",
    ),
    (
        {"similarities": {"x": SimilarityConfig(user="taste", item="price")}},
        r"similarities\.x names price, which is no vector feature; those are taste, picture, long",
    ),
    (
        {"similarities": {"x": SimilarityConfig(user="taste", item="long")}},
        r"compares taste of length 4 with long of length 5; a cosine needs vectors of one space",
    ),
]


@pytest.mark.parametrize(("wrong", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_features_that_do_not_fit_are_refused_on_every_rank(schema, wrong, sentence):
    events = schema.features["recent"]
    for name, feature in (
        ("endless", replace(events, max_length=0)),
        ("timeless", replace(events, times="")),
        ("longer", replace(events, max_length=5)),
        ("elsewhere", replace(events, times="other_times")),
        ("long", Feature(kind="vector", side="item", length=5)),
    ):
        schema = with_feature(schema, name, feature)
    with pytest.raises(UserError, match=sentence) as caught:
        check_pairs(schema, PairConfig(**wrong))
    assert caught.value.everywhere
    assert "\n" not in str(caught.value)


def test_parallel_events_need_one_times_column_even_without_gaps(schema):
    for name in ("recent", "recent_tags"):
        schema = with_feature(schema, name, replace(schema.features[name], times=""))
    check_pairs(schema, PairConfig(interests={"x": RECENTLY}, temporal=NO_GAPS))
    with pytest.raises(UserError, match="must tell the same events"):
        check_pairs(schema, PairConfig(interests={"x": BOTH}, temporal=NO_GAPS))
