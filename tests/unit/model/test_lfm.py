"""What each output of the foundation model may and may not depend on, in every shape."""

from dataclasses import replace

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.model.config import HeadConfig, LfmConfig
from lfm4ads.nn.fields import FieldConfig, VectorConfig
from lfm4ads.train.losses import masked_bce
from tests.batches import change_side, pad, take
from tests.unit.model.shapes import PAIRS, SHAPES, build, expert, mix, run, stir

DOMAINS = {"content": 0, "ads": 1}


@pytest.fixture(params=SHAPES)
def shape(request):
    return request.param


@pytest.fixture
def config(shape):
    return SHAPES[shape]


@pytest.fixture
def model(schema, batch, config):
    return stir(build(schema, config, batch))


def loss_of(out, batch):
    loss = masked_bce(out.logits, batch)
    return loss if out.base_logits is None else loss + masked_bce(out.base_logits, batch)


@pytest.mark.parametrize("changed", ["user", "item", "context"])
def test_ur_sees_user_features_alone_and_ir_item_features_alone(
    model, schema, batch, config, changed
):
    before, after = run(model, batch), run(model, change_side(batch, changed, schema))
    of_user = ("user", "context") if config.context == "user" else ("user",)
    for sides, one, other in ((of_user, before.ur, after.ur), (("item",), before.ir, after.ir)):
        if changed in sides:
            assert (one != other).any(dim=1).all(), "every row's representation must react"
        else:
            assert torch.equal(one, other)
    assert (before.logits != after.logits).any(dim=1).all()


def test_cross_representations_see_no_context_unless_it_is_the_users(model, schema, batch, config):
    before, after = run(model, batch), run(model, change_side(batch, "context", schema))
    same = {name for name in before.layers if torch.equal(before.layers[name], after.layers[name])}
    assert same == (set() if config.context == "user" else set(before.layers))


def test_every_layer_can_be_read_and_has_the_stated_width(model, batch, config):
    out = run(model, batch)
    assert list(out.layers) == list(model.mix.layer_dims)
    for name, layer in out.layers.items():
        assert layer.shape == (len(batch), model.mix.layer_dims[name])
    assert (out.ur.shape[1], out.ir.shape[1]) == model.rep_dims
    if config.tower.rep_dim:
        assert set(model.rep_dims) == {config.tower.rep_dim * len(config.table_sets)}
    assert out.logits.shape == (len(batch), 3)
    assert torch.equal(out.layers["towers"], torch.cat([out.ur, out.ir], dim=1))


def test_layers_are_named_from_input_to_output(schema, batch):
    names = list(build(schema, SHAPES["default"], batch).mix.layer_dims)
    assert names == [
        "towers", "cross_cross_1", "cross_cross_2", "cross_mlp_1", "merged", "top_1"
    ]  # fmt: skip
    names = list(build(schema, SHAPES["gates"], batch).mix.layer_dims)
    assert names[1:5] == ["cross_cross_1", "flat_flat", "cross_mlp_1", "flat_mlp_1"]
    assert names[5:] == [
        f"{layer}_{task}" for layer in ("merged", "top_1") for task in schema.tasks
    ]


def test_logits_are_heads_of_the_last_layer_and_context(model, schema, batch, config):
    out = run(model, batch)
    if config.mix.merge.per_task:
        top = torch.stack([out.layers[f"top_1_{task}"] for task in schema.tasks], dim=1)
    else:
        top = out.layers["top_1"]
    wanted = model.heads(top, batch.scenario)
    if config.context == "logit":
        context = model.context_fields(model.tables(batch.sparse), batch)
        wanted = wanted + model.context_head(context)
    else:
        assert model.context_fields is None
    torch.testing.assert_close(out.logits, wanted)
    assert (out.base_logits is not None) == config.heads.joint
    if config.heads.joint:
        torch.testing.assert_close(out.base_logits, model.base_heads(top, batch.scenario))
        assert not torch.equal(out.base_logits, out.logits)


def test_a_row_is_scored_the_same_whatever_rows_are_beside_it(model, batch):
    whole = run(model, batch)
    for rows in ([3], [9, 3, 60, 9], list(range(63, -1, -1))):
        some = run(model, take(batch, rows))
        for name in ("logits", "ur", "ir"):
            torch.testing.assert_close(getattr(some, name), getattr(whole, name)[rows])
        for layer in whole.layers:
            torch.testing.assert_close(some.layers[layer], whole.layers[layer][rows])


def test_padding_changes_no_score_and_no_gradient(model, batch):
    gradients = []
    for one in (batch, pad(batch, 5)):
        model.zero_grad()
        out = model(one)
        loss_of(out, one).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        torch.testing.assert_close(out.logits[:64].detach(), run(model, batch).logits)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_every_table_and_every_dense_parameter_gets_a_gradient(model, schema, batch, config):
    loss_of(model.train()(batch), batch).backward()
    still = {name for name, one in model.named_parameters() if not one.grad.abs().sum()}
    # A task that merges for itself does so in every domain, also in one without its label.
    unlabelled = {
        f"mix.branches.{domain}.{part}.{place}."
        for place, task in enumerate(schema.tasks.values())
        for domain in schema.domains
        for part in ("merge.gates", "tops")
        if config.mix.merge.per_task and task.domains and domain not in task.domains
    }
    assert {name for name in still if not any(map(name.startswith, unlabelled))} == set()
    assert bool(still) == bool(unlabelled)
    tables = [name for name, _ in model.tables.named_parameters()]
    assert len(tables) == 3 * len(config.table_sets) + (len(config.table_sets) > 1)


@pytest.mark.parametrize(("domain", "other"), [("content", "ads"), ("ads", "content")])
def test_loss_of_a_domain_gives_the_other_branch_no_gradient(model, batch, domain, other):
    own = batch.domain == DOMAINS[domain]
    masks = batch.masks * own.unsqueeze(1)
    loss_of(model.train()(batch), replace(batch, masks=masks)).backward()
    for parameter in model.mix.branches[other].parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, torch.zeros_like(parameter))
    experts = model.mix.branches[domain].experts.parameters()
    assert all(parameter.grad.abs().sum() > 0 for parameter in experts)


@pytest.mark.parametrize("shape", ["default", "gates"], indirect=True)
def test_dropout_acts_in_training_alone(schema, batch, config):
    model = build(schema, replace(config, dropout=0.3), batch)
    assert torch.equal(run(model, batch).logits, run(model, batch).logits)
    model.train()
    assert not torch.equal(run(model, batch).logits, run(model, batch).logits)


PAIRED = replace(SHAPES["pairs"], mix=mix(flat=expert("flat"), wide=expert("flat", tables="wide")))


def pair_fields(model, batch):
    """The last columns of each set's fields, which the flat experts pass on."""
    layers = run(model, batch).layers
    return [layers[name][:, 24:] for name in ("flat_flat", "wide_flat")]


@pytest.mark.parametrize("changed", ["user", "item"])
def test_pair_fields_see_both_sides(schema, batch, changed):
    model = build(schema, PAIRED, batch)
    other = change_side(batch, changed, schema)
    for one, moved in zip(pair_fields(model, batch), pair_fields(model, other), strict=True):
        assert (one != moved).any(dim=0).all(), "every column reacts in some row"
        looks = batch.vectors[:, :4].isnan().any(dim=1)
        assert (one != moved).any(dim=1)[~looks].float().mean() > 0.9


def test_pair_dropout_drops_whole_rows_of_all_sets_in_training_alone(schema, batch):
    model = build(schema, PAIRED, batch)
    still = pair_fields(model, batch)
    assert all((one != 0).any(dim=1).all() for one in still)
    model.train()
    shares = []
    for _ in range(20):
        drawn = pair_fields(model, batch)
        dropped = [(one == 0).all(dim=1) for one in drawn]
        assert torch.equal(*dropped), "downstream has the pair fields of no set"
        for one, wanted, gone in zip(drawn, still, dropped, strict=True):
            assert torch.equal(one[~gone], wanted[~gone])
        shares.append(dropped[0].float().mean())
    assert torch.stack(shares).mean().item() == pytest.approx(PAIRS.dropout, abs=0.05)


def test_features_left_out_enter_no_tower_but_may_be_similar(schema, batch):
    config = replace(PAIRED, without=("taste", "age", "hour"))
    model = build(schema, config, batch)
    names = {name for one in model.users.values() for name in one.fields.names}
    assert names == {"user_id", "recent"}
    assert model.context_fields is None
    similar = pair_fields(model, batch)[0][:, -PAIRS.similarity_dim :]
    assert len(similar.unique(dim=0)) > 5


def test_variance_shrinks_where_rows_were_observed(schema, batch):
    model = build(schema, SHAPES["sngp"], batch)
    out = run(model, batch)
    before = model.variance(out)
    assert before.shape == out.logits.shape
    model.observe(out, batch)
    assert torch.equal(model.variance(out), before), "not before it is settled"
    model.settle(lambda array: array)
    assert (model.variance(out) < before).all()
    plain = build(schema, SHAPES["default"], batch)
    assert plain.variance(run(plain, batch)) is None
    assert (model.observes, plain.observes) == (True, False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dropout": 1.0}, r"model\.dropout must be in \[0, 1\), got 1"),
        ({"sets": {"context": None}}, "a set context, the name of the context features' own set"),
        (
            {"heads": HeadConfig(kind="sngp"), "mix": mix("gate", per_task=True)},
            r"reads one vector a row; set merge\.per_task=false",
        ),
    ],
)
def test_impossible_shapes_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        LfmConfig(**wrong)


def test_names_the_schema_lacks_are_refused_on_every_rank(schema, batch):
    codes = FieldConfig(vector=VectorConfig(codes={"price": 4}))
    for wrong, sentence in (
        ({"without": ("colour",)}, r"model\.without names colour, which the schema does not have"),
        ({"fields": codes}, r"fields\.vector\.codes names price, which is no vector feature"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            build(schema, LfmConfig(**wrong), batch)
        assert caught.value.everywhere
