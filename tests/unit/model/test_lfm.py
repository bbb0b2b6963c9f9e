"""What each output of the foundation model may and may not depend on."""

import pytest
import torch

from lfm4ads.model.lfm import Lfm, LfmConfig
from lfm4ads.nn.mix import tower_input
from lfm4ads.train.losses import masked_bce
from tests.batches import change_side, pad, take
from tests.plain import unshard

CONFIG = LfmConfig(rep_dim=12, tower_hidden=(24,), cross_layers=2, mlp=(20, 10), dropout=0.3)


@pytest.fixture
def model(schema):
    return unshard(Lfm(schema, CONFIG), seed=1).eval()


def run(model, batch):
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("changed", ["user", "item", "context"])
def test_ur_sees_user_features_alone_and_ir_item_features_alone(model, schema, batch, changed):
    before, after = run(model, batch), run(model, change_side(batch, changed, schema))
    for side, one, other in (("user", before.ur, after.ur), ("item", before.ir, after.ir)):
        if side == changed:
            assert (one != other).any(dim=1).all(), "every row's representation must react"
        else:
            assert torch.equal(one, other)
    assert (before.logits != after.logits).any(dim=1).all()


def test_cross_representations_see_no_context(model, schema, batch):
    before, after = run(model, batch), run(model, change_side(batch, "context", schema))
    for layer in CONFIG.layers:
        assert torch.equal(before.layers[layer], after.layers[layer])


def test_every_layer_can_be_read_and_has_the_stated_width(model, batch):
    out = run(model, batch)
    assert list(out.layers) == CONFIG.layers
    assert CONFIG.layers == ["towers", "cross_1", "cross_2", "mlp_1", "mlp_2"]
    for name, layer in out.layers.items():
        assert layer.shape == (len(batch), CONFIG.layer_dim(name))
    assert out.ur.shape == out.ir.shape == (len(batch), CONFIG.rep_dim)
    assert out.logits.shape == (len(batch), 3)
    assert torch.equal(out.layers["towers"], tower_input(out.ur, out.ir))


def test_logits_are_heads_of_the_last_layer_and_context(model, batch):
    out = run(model, batch)
    wanted = model.heads(out.layers["mlp_2"], batch.scenario)
    context = model.context_fields(model.tables(batch.sparse), batch)
    torch.testing.assert_close(out.logits, wanted + model.context_head(context))


def test_a_row_is_scored_the_same_whatever_rows_are_beside_it(model, batch):
    whole = run(model, batch)
    for rows in ([3], [9, 3, 60, 9], list(range(63, -1, -1))):
        some = run(model, take(batch, rows))
        for name in ("logits", "ur", "ir"):
            torch.testing.assert_close(getattr(some, name), getattr(whole, name)[rows])
        for layer in CONFIG.layers:
            torch.testing.assert_close(some.layers[layer], whole.layers[layer][rows])


def test_padding_changes_no_score_and_no_gradient(schema, batch):
    model = unshard(Lfm(schema, LfmConfig(rep_dim=12, mlp=(10,))), seed=1)
    gradients = []
    for one in (batch, pad(batch, 5)):
        model.zero_grad()
        out = model(one)
        masked_bce(out.logits, one).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        scores = out.logits[:64].detach()
        torch.testing.assert_close(scores, run(model, batch).logits)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_every_table_and_every_dense_parameter_gets_a_gradient(schema, batch):
    model = unshard(Lfm(schema, CONFIG), seed=1)
    masked_bce(model(batch).logits, batch).backward()
    still = [name for name, one in model.named_parameters() if not one.grad.abs().sum()]
    assert still == []
    tables = [name for name, _ in model.named_parameters() if "embedding_bags" in name]
    assert len(tables) == 3


def test_dropout_acts_in_training_alone(model, batch):
    assert torch.equal(run(model, batch).logits, run(model, batch).logits)
    model.train()
    assert not torch.equal(run(model, batch).logits, run(model, batch).logits)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match=r"model\.mlp needs at least one layer"):
        LfmConfig(mlp=())
    with pytest.raises(ValueError, match=r"model\.dropout must be in \[0, 1\), got 1"):
        LfmConfig(dropout=1.0)
