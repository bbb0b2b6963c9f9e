"""Which representations a pattern names, what the model scores by, and what is known when."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.model.retrieval import ITEM, Retrieval, RetrievalConfig
from lfm4ads.train.popularity import POPULARITY, Popularity
from lfm4ads.train.retrieval import choose_queries
from lfm4ads.train.space import OwnSpace, StoredSpace, rep_batch
from tests.batches import one_rank

NAMES = ("user.ur", "user.cr_ads", "user.cr_content", ITEM, "item.cr_ads")
DIMS = {"user.ur": 3, "user.cr_ads": 2, ITEM: 4}


def test_patterns_name_the_users_representations_once_each():
    reps = SimpleNamespace(root="reps", every=lambda _: NAMES)
    patterns = {"both": ["user.cr_*", "user.ur"], "all": ["user.ur", "user.*"], "own": []}
    assert choose_queries(reps, patterns, day=1) == {"both": NAMES[:3], "all": NAMES[:3], "own": ()}
    for pattern in ("user.cr_search", ITEM, "ur"):
        with pytest.raises(UserError, match=rf"is called {pattern}; there are user\.ur, user\.cr"):
            choose_queries(reps, {"one": ["user.ur", pattern]}, day=1)


def batch_of(*, present=1.0):
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(5, dim)).astype(np.float32) for name, dim in DIMS.items()}
    there = {name: np.full(5, present) for name in DIMS}
    return rep_batch(values, there)


def model_of(schema, *, loss="softmax", query=("user.ur", "user.cr_ads"), **options):
    config = RetrievalConfig(**options)
    return Retrieval(schema, config, query=query, rep_dims=DIMS, loss=loss)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_scores_are_a_linear_map_of_representations_times_ir(schema, loss):
    model = model_of(schema, loss=loss)
    batch = batch_of()
    assert not model(batch).logits_B1.any(), "all items score alike at the start"
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    out = model(batch)
    layer = model.query_map.layers[0]
    r = torch.cat([batch.reps["user.ur"], batch.reps["user.cr_ads"], torch.ones(5, 2)], dim=1)
    wanted = ((r @ layer.weight.t() + layer.bias) * batch.reps[ITEM]).sum(1)
    if loss == "bce":
        wanted = wanted + model.user_term(r).squeeze(1)
    torch.testing.assert_close(out.logits_B1.squeeze(1), wanted)
    torch.testing.assert_close(model.encode_users(batch), out.query_BD)
    torch.testing.assert_close(model.encode_items(batch), out.item_BD)


def test_what_is_missing_is_zero_and_says_so(schema):
    model = model_of(schema, query=("user.ur",))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    out = model(batch_of(present=0.0))
    assert not out.item_BD.any()
    assert not out.known_B.any()
    torch.testing.assert_close(out.query_BD, model.query_map.layers[0].bias.expand(5, -1))


def test_a_temperature_divides_and_may_learn(schema):
    plain, cool = (model_of(schema, temperature=one, learn_temperature=True) for one in (1.0, 2.0))
    for model in (plain, cool):
        torch.manual_seed(1)
        for parameter in model.query_map.parameters():
            torch.nn.init.normal_(parameter)
    torch.testing.assert_close(plain(batch_of()).query_BD, 2 * cool(batch_of()).query_BD)
    plain(batch_of()).logits_B1.sum().backward()
    assert plain.log_temperature.grad.abs() > 0


def test_popularity_is_that_of_days_before_and_starts_as_the_order(schema):
    days = {1: ([2, 5], [3, 1]), 2: ([5, 9], [4, 4]), 3: ([2], [100])}
    shown = {day: (np.array(items), np.array(rows)) for day, (items, rows) in days.items()}
    found = Popularity(shown=shown, window=2)
    shares = np.exp(found.of(np.array([2, 5, 9, 7]), day=3)[:, 0])
    np.testing.assert_allclose(shares, [3 / 12, 5 / 12, 4 / 12, 3 / 24], rtol=1e-6)
    assert np.exp(found.of(np.array([2]), day=4))[0, 0] == pytest.approx(100 / 108)
    with pytest.raises(UserError, match="popularity_days needs rows before 1"):
        found.of(np.array([2]), day=1)
    moments = found.moments(3)
    dims = {"user.ur": 3, ITEM: 4, POPULARITY: 1}
    model = Retrieval(
        schema, RetrievalConfig(temperature=3.0), query=["user.ur"], rep_dims=dims, loss="softmax"
    )
    spread = SimpleNamespace(mean=np.zeros(4), std=np.ones(4))
    one = SimpleNamespace(mean=np.zeros(3), std=np.ones(3))
    model.standardiser.set_moments({ITEM: spread, "user.ur": one, POPULARITY: moments})
    model.set_popularity(POPULARITY, std=float(moments.std[0]))
    items = np.array([2, 5, 9])
    values = {"user.ur": np.ones((3, 3)), ITEM: np.ones((3, 4))}
    values[POPULARITY] = found.of(items, day=3)
    batch = rep_batch(
        {name: value.astype(np.float32) for name, value in values.items()},
        dict.fromkeys(values, np.ones(3)),
    )
    score = model(batch).logits_B1.squeeze(1).detach()
    np.testing.assert_allclose(torch.softmax(score, 0), [3 / 12, 5 / 12, 4 / 12], rtol=1e-4)


def test_two_towers_read_their_own_side_alone(schema):
    config = RetrievalConfig(features=("user_id", "recent", "item_id", "hour"))
    model = Retrieval(schema, config, query=(), rep_dims={}, loss="softmax")
    assert model.users.names == ["user_id", "recent"]
    assert model.items.names == ["item_id"]
    assert not model.stored
    with pytest.raises(UserError, match="leaves the retriever no item feature"):
        Retrieval(schema, RetrievalConfig(features=("age",)), query=(), rep_dims={}, loss="softmax")
    with pytest.raises(ValueError, match="at most one layer"):
        RetrievalConfig(hidden=(8, 8))


class Snapshots:
    """Stands where ``Reps`` does: snapshots as of each day before the asked one."""

    root = "reps"

    def __init__(self, dims):
        self._dims = dims

    def dims(self, _):
        return self._dims

    def before(self, day):
        header = SimpleNamespace(as_of=day - 1)
        return SimpleNamespace(manifest=SimpleNamespace(header=header), keys=lambda _: np.arange(4))


def test_vectors_of_another_width_are_refused(schema):
    model = model_of(schema, query=("user.ur",))
    sharded = SimpleNamespace(model=SimpleNamespace(module=model), ranks=one_rank())
    space = StoredSpace(
        sharded=sharded,
        users=Snapshots({"user.ur": 3}),
        items=Snapshots({ITEM: 5}),
        known=None,
        popularity=None,
    )
    with pytest.raises(UserError, match=r"item\.ir is 5 wide before 20260105 but 4"):
        next(space.at([20260105]))


def test_an_empty_history_is_an_empty_catalogue(schema):
    model = Retrieval(schema, RetrievalConfig(), query=(), rep_dims={}, loss="softmax")
    sharded = SimpleNamespace(model=SimpleNamespace(module=model), ranks=one_rank())
    space = OwnSpace(sharded=sharded, history=None, history_days=())
    with pytest.raises(UserError, match="the catalogue of 20260105 is empty"):
        next(space.at([20260105]))
