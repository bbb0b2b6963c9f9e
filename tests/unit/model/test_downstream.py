"""How upstream knowledge enters a downstream model, and what it must leave alone."""

import pytest
import torch

from lfm4ads.model.arm import ArmConfig
from lfm4ads.model.downstream import Downstream, DownstreamConfig
from lfm4ads.model.isomorphic import module_weights
from lfm4ads.nn.fields import FieldConfig, VectorConfig
from lfm4ads.train.losses import masked_bce
from tests.batches import pad, take
from tests.plain import tables_of, unshard
from tests.unit.model import shapes
from tests.unit.model.shapes import SHAPES, stir

DIMS = {"user.ur": 12, "user.cr_ads": 10, "item.ir": 12}
CONFIGS = {
    "vanilla": ArmConfig(),
    "sum": ArmConfig(concat=("user.ur",)),
    "gate": ArmConfig(gate=("user.cr_*",)),
    "adapter": ArmConfig(adapter=("*",)),
    "item_adapter": ArmConfig(adapter=("item.*",)),
    "tokens": ArmConfig(tokens=("*",)),
    "module": ArmConfig(module="logit"),
    "joined": ArmConfig(module="hidden"),
    "all": ArmConfig(concat=("user.ur",), adapter=("*",), tokens=("*",), module="both"),
}
CONFIGS = {name: arm.named(tuple(DIMS)) for name, arm in CONFIGS.items()}
ARMS = list(CONFIGS)
WANTED = {name: arm.reads for name, arm in CONFIGS.items()}
READING = [name for name in ARMS if WANTED[name]]
CONFIG = DownstreamConfig(mlp=(16, 8), adapter_hidden=20, concat_dim=6, token_dim=5)


def build(schema, arm, *, config=CONFIG, tasks=(0, 1, 2), shape="default"):
    """A model whose dense parameters and rows come from the same seeds for every arm."""
    torch.manual_seed(4)  # no row whose last hidden layer is all off
    model = Downstream(
        schema,
        config,
        arm=CONFIGS[arm],
        tasks=tasks,
        domain="ads",
        rep_dims=DIMS,
        upstream=SHAPES[shape],
    )
    return unshard(model, seed=5)


@pytest.fixture
def fed(ads):
    """Ads rows with representations; one row in four has no user, one in five no item."""
    position = torch.arange(len(ads))
    for name, dim in DIMS.items():
        present = (position % (4 if name.startswith("user") else 5) > 0).float()
        ads.reps[name] = torch.randn(len(ads), dim) * present.unsqueeze(1)
        ads.present[name] = present
    return ads


def score(model, batch):
    with torch.no_grad():
        return model.eval()(batch)


@pytest.mark.parametrize("training", [True, False])
def test_arm_adapter_starts_at_the_logits_of_vanilla(schema, fed, training):
    # Without dropout of its own the adapter draws nothing, so both arms drop the same units.
    config = DownstreamConfig(mlp=(16, 8), adapter_hidden=20, adapter_dropout=0.0)
    scores = []
    for arm in ("vanilla", "adapter", "item_adapter", "joined"):
        model = build(schema, arm, config=config).train(training)
        torch.manual_seed(11)
        scores.append(model(fed))
    assert all(torch.equal(scores[0], other) for other in scores[1:])
    assert scores[0].std() > 0


def test_arms_share_first_values_of_what_they_share(schema):
    plain = build(schema, "vanilla").state_dict()
    for arm in ("gate", "adapter", "item_adapter", "module", "joined"):
        other = build(schema, arm).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in plain.items())
    tables = {name for name in plain if name.startswith(("tables.", "fields."))}
    other = build(schema, "sum").state_dict()
    assert all(torch.equal(plain[name], other[name]) for name in tables)


@pytest.mark.parametrize("tasks", [(0, 1, 2), (2, 0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_module_with_copied_weights_is_the_upstream_without_context_and_pair_fields(
    schema, ads, shape, tasks
):
    upstream = stir(shapes.build(schema, SHAPES[shape], ads, seed=9))
    model = build(schema, "module", shape=shape, tasks=tasks)
    own, source = model.state_dict(), upstream.state_dict()
    with torch.no_grad():
        for name, other in module_weights(model.state_dict()).items():
            own[name].copy_(source[other])
        for parameter in model.heads.parameters():
            parameter.zero_()
        out = upstream(ads)
        top = upstream.mix(out.ur, out.ir, ads.domain).top
        wanted = upstream.heads(top, ads.scenario)[:, tasks]
    for name, rep in (("user.ur", out.ur), ("item.ir", out.ir)):
        ads.reps[name], ads.present[name] = rep, torch.ones(len(ads))
    assert torch.equal(score(model, ads), wanted)
    assert wanted.std(dim=0).min() > 0.001
    if not upstream.pairs and upstream.context_fields is None:
        assert torch.equal(wanted, out.logits[:, tasks])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_of_the_module_is_copied_but_the_defaults(schema, ads, shape):
    model = build(schema, "module", shape=shape)
    own, source = model.state_dict(), shapes.build(schema, SHAPES[shape], ads).state_dict()
    names = module_weights(model.state_dict())
    of_module = {name for name in own if name.startswith("module.")}
    assert of_module - set(names) == {"module.default_ur", "module.default_ir"}, "no join here"
    assert set(names) <= of_module
    assert all(own[name].shape == source[other].shape for name, other in names.items())
    wanted = {name for name in source if name.startswith(("mix.", "heads."))}
    assert set(names.values()) == {name for name in wanted if ".content." not in name}


@pytest.mark.parametrize("arm", ARMS)
def test_training_leaves_representations_as_they_are(schema, fed, arm):
    stored = {name: rep.clone() for name, rep in fed.reps.items()}
    model = stir(build(schema, arm))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        masked_bce(model(fed), fed).backward()
        optimizer.step()
    for name, rep in fed.reps.items():
        assert torch.equal(rep, stored[name])
        assert not rep.requires_grad
    held = {value.data_ptr() for value in [*model.parameters(), *model.buffers()]}
    assert not held & {rep.data_ptr() for rep in fed.reps.values()}


@pytest.mark.parametrize("arm", READING)
def test_what_is_stored_for_an_absent_key_matters_to_no_score(schema, fed, arm):
    model = stir(build(schema, arm))
    before = score(model, fed)
    for name, rep in fed.reps.items():
        absent = fed.present[name] == 0
        rep[absent] = 1e3 * torch.randn_like(rep[absent])
    assert torch.equal(score(model, fed), before)


@pytest.mark.parametrize("arm", READING)
def test_every_present_representation_matters_to_its_rows_alone(schema, fed, arm):
    model = stir(build(schema, arm))
    before = score(model, fed)
    for name in WANTED[arm]:
        kept = fed.reps[name]
        fed.reps[name] = kept + torch.randn_like(kept) * fed.present[name].unsqueeze(1)
        changed = (score(model, fed) != before).any(dim=1)
        assert torch.equal(changed, fed.present[name] > 0), name
        fed.reps[name] = kept


def test_vanilla_needs_no_representations(schema, ads, fed):
    model = build(schema, "vanilla")
    with_reps = score(model, fed)
    ads.reps.clear()
    ads.present.clear()
    assert torch.equal(score(model, ads), with_reps)


def test_an_absent_key_gets_the_modules_learned_default(schema, fed):
    model = stir(build(schema, "module"))
    before = score(model, fed)
    with torch.no_grad():
        model.module.default_ur.add_(1.0)
    changed = (score(model, fed) != before).any(dim=1)
    assert torch.equal(changed, fed.present["user.ur"] == 0)


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_gets_a_gradient(schema, fed, arm):
    model = stir(build(schema, arm))
    masked_bce(model(fed), fed).backward()
    still = {name for name, one in model.named_parameters() if not one.grad.abs().sum()}
    # No ads row is in scenario 0, but its values are parts of larger tensors; long_view is masked.
    assert still == set()


@pytest.mark.parametrize("arm", ARMS)
def test_a_row_is_scored_the_same_whatever_rows_are_beside_it(schema, fed, arm):
    model = stir(build(schema, arm))
    whole = score(model, fed)
    torch.testing.assert_close(score(model, take(fed, [7, 3])), whole[[7, 3]])


def test_padding_changes_no_score(schema, ads):
    model = build(schema, "vanilla")
    torch.testing.assert_close(score(model, pad(ads, 3))[:64], score(model, ads))


def test_features_can_be_left_out(schema, fed):
    config = DownstreamConfig(features=("item_id", "hour", "price"), mlp=(8,))
    model = build(schema, "adapter", config=config, tasks=(2,))
    assert set(tables_of(model)) == {"item", "tag"}
    assert model.fields.width == 8 + 8 + 8
    assert score(model, fed).shape == (64, 1)


def test_impossible_configs_are_refused(schema):
    with pytest.raises(ValueError, match=r"model\.mlp needs at least one layer"):
        DownstreamConfig(mlp=())
    codes = FieldConfig(vector=VectorConfig(codes={"price": 4}))
    for config, sentence in (
        (DownstreamConfig(features=("age", "colour")), r"model\.features names colour, which the"),
        (DownstreamConfig(fields=codes), r"vector\.codes names price, which is no vector feature"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build(schema, "vanilla", config=config)
