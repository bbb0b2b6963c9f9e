"""Multi-embedding and heterogeneous mixtures: an expert and its table set keep to themselves."""

from dataclasses import replace

import pytest
import torch

from lfm4ads.model.config import LfmConfig
from lfm4ads.nn.tables import TableSet
from tests.unit.model.shapes import TOWER, belongs, build, expert, mix, run, stir

BOUND = {"a": "one", "b": "one", "c": "two"}
MIXTURE = LfmConfig(
    tower=replace(TOWER, token_dim=4),
    sets={"one": TableSet(), "two": TableSet(dim=16)},
    mix=mix(
        "gate",
        a=expert("gwpfm", tables="one"),
        b=expert("flat", tables="one"),
        c=expert("ipnn", tables="two"),
    ),
)
"""The deployed mixture of the paper: GwPFM and FlatDNN on one set, IPNN on a second."""


@pytest.mark.parametrize("merge", ["mean", "learned", "gate"])
def test_an_expert_has_no_gradient_on_another_set(schema, batch, merge):
    config = replace(
        MIXTURE, mix=replace(MIXTURE.mix, merge=replace(MIXTURE.mix.merge, kind=merge))
    )
    model = stir(build(schema, config, batch))
    tables = dict(model.tables.named_parameters())
    layers = model(batch).layers
    for name, table_set in BOUND.items():
        output = layers[f"{name}_mlp_1"].square().sum()
        found = torch.autograd.grad(
            output, list(tables.values()), retain_graph=True, allow_unused=True
        )
        for table, gradient in zip(tables, found, strict=True):
            if f".{table_set}/" in table:
                assert gradient.abs().sum() > 0, (name, table)
            else:
                assert gradient is None or not gradient.any(), (name, table)


@pytest.mark.parametrize("table_set", ["one", "two"])
def test_zeroing_a_table_changes_only_the_experts_bound_to_it(schema, batch, table_set):
    model = stir(build(schema, MIXTURE, batch))
    before = run(model, batch).layers
    with torch.no_grad():
        model.get_parameter(f"tables.bags.embedding_bags.{table_set}/item.weight").zero_()
    after = run(model, batch).layers
    for name, bound in BOUND.items():
        same = torch.equal(before[f"{name}_mlp_1"], after[f"{name}_mlp_1"])
        assert same == (bound != table_set), name


def test_a_mixtures_gate_is_a_share_a_row(schema, batch):
    weights = run(stir(build(schema, MIXTURE, batch)), batch).weights
    assert weights.shape == (len(batch), 1, 3)
    torch.testing.assert_close(weights.sum(2), torch.ones(len(batch), 1))
    assert weights.std(dim=0).max() > 1e-3


def test_another_expert_type_is_another_shape(schema, batch):
    other = mix("gate", **{**MIXTURE.mix.experts, "c": expert("fm", tables="two")})
    shapes = [
        {name: one.shape for name, one in build(schema, config, batch).named_parameters()}
        for config in (MIXTURE, replace(MIXTURE, mix=other))
    ]
    differ = {name for name in shapes[0] if shapes[0][name] != shapes[1].get(name)}
    assert differ == {
        f"mix.branches.{domain}.experts.c.layers.0.weight" for domain in schema.domains
    }


def test_sets_may_differ_in_width_and_keep_it(schema, batch):
    model = build(schema, MIXTURE, batch)
    widths = {name.split(".")[-2]: one.shape[1] for name, one in model.tables.named_parameters()}
    assert widths == {
        **{f"one/{table}": 8 for table in schema.tables},
        **{f"two/{table}": 16 for table in schema.tables},
        "context/tag": 8,
    }
    assert "towers" in model.mix.layer_dims
    assert model.rep_dims == (24, 24)


def test_twice_the_sets_are_twice_the_parameters(schema, batch):
    """Multi-embedding: complete sets, set-specific interactions, no parameter shared."""
    sizes = []
    for names in (("a",), ("a", "b"), ("a", "b", "c")):
        experts = {name: expert(tables=name, layers=2) for name in names}
        config = LfmConfig(
            tower=TOWER, sets=dict.fromkeys(names, TableSet()), mix=mix(**experts), trains={},
            without=("hour",),
        )  # fmt: skip
        model = build(schema, config, batch)
        sizes.append([
            sum(p.numel() for name, p in model.named_parameters() if belongs(name, one))
            for one in names
        ])  # fmt: skip
        rest = [
            name for name, _ in model.named_parameters()
            if not any(belongs(name, one) for one in names)
        ]  # fmt: skip
        assert all(name.startswith(("heads.", "mix.branches.")) for name in rest)
        assert not any(".merge." in name or ".experts." in name for name in rest)
    assert sizes == [[sizes[0][0]] * times for times in (1, 2, 3)]
