"""Shapes of the foundation model on the tiny schema, and models of them."""

import torch

from lfm4ads.model.config import HeadConfig, LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig, MergeConfig
from lfm4ads.nn.fields import FieldConfig, VectorConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.numbers import NumberConfig, NumeralNumbers
from lfm4ads.nn.pairs import InterestConfig, PairConfig, SimilarityConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.nn.tower import TowerConfig
from tests.plain import unshard

TOWER = TowerConfig(rep_dim=12, hidden=(24,))
PAIRS = PairConfig(
    interests={"recently": InterestConfig(behaviours=("recent",), targets=("item_id",))},
    similarities={"look": SimilarityConfig(user="taste", item="picture")},
    similarity_dim=8,
    dropout=0.3,
)
NUMERALS = FieldConfig(
    number=NumberConfig(kind="equal_frequency", dim=8, levels=16, kinds={"age": "integer"}),
    vector=VectorConfig(dim=8, codes={"picture": 6}),
)
EQUAL = FieldConfig(number=NumberConfig(dim=8), vector=VectorConfig(dim=8))


def expert(kind="dcnv2", *, tables="main", hidden=(20,), **options):
    interaction = InteractionConfig(kind=kind, **options)
    return ExpertConfig(tables=tables, interaction=interaction, hidden=hidden)


def mix(merge="mean", *, per_task=False, hidden=(10,), **experts):
    return MixConfig(
        experts=experts, merge=MergeConfig(kind=merge, per_task=per_task), hidden=hidden
    )


CROSS = mix(cross=expert(layers=2))
SHAPES = {
    "default": LfmConfig(tower=TOWER, mix=CROSS),
    "gates": LfmConfig(
        tower=TOWER,
        sets={"main": TableSet(), "wide": TableSet(dim=16)},
        mix=mix("gate", per_task=True, cross=expert(layers=1), flat=expert("flat", tables="wide")),
    ),
    "identity": LfmConfig(
        tower=TowerConfig(rep_dim=0),
        fields=EQUAL,
        mix=mix(
            "learned",
            fm=expert("fm"),
            fwfm=expert("fwfm"),
            gwpfm=expert("gwpfm"),
            ipnn=expert("ipnn"),
        ),
    ),
    "tokens": LfmConfig(
        tower=TowerConfig(rep_dim=24, hidden=(), token_dim=12),
        mix=mix(ffm=expert("ffm"), fmfm=expert("fmfm"), diagonal=expert("fmfm", diagonal=True)),
    ),
    "pairs": LfmConfig(
        tower=TOWER,
        fields=NUMERALS,
        pairs=PAIRS,
        sets={"main": TableSet(), "wide": TableSet(dim=12)},
        mix=mix("gate", cross=expert(layers=1), flat=expert("flat", tables="wide")),
    ),
    "context": LfmConfig(tower=TOWER, mix=CROSS, context="user"),
    "sngp": LfmConfig(
        tower=TOWER, mix=CROSS, heads=HeadConfig(kind="sngp", features=32, spectral=0.5)
    ),
    "joint": LfmConfig(tower=TOWER, mix=CROSS, heads=HeadConfig(joint=True)),
}


def build(schema, config, batch, *, seed=1):
    """A model with memory, whose quantisers have seen ``batch``, in evaluation mode."""
    torch.manual_seed(seed)
    model = Lfm(schema, config)
    for module in model.modules():
        if isinstance(module, NumeralNumbers):
            columns = [schema.select(kind="number").index(name) for name in module.names]
            module.quantiser.fit(batch.numbers[:, columns].numpy())
    return unshard(model, seed=seed).eval()


def stir(model):
    """Move every parameter off its start, so that zero first values hide nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model, batch):
    with torch.no_grad():
        return model(batch)


def belongs(name, table_set):
    """Whether a parameter is a table, an encoder or an expert of a set.

    An expert is named like its set, or ``expert_<set>_<number>``.
    """
    parts = name.split(".")
    experts = [parts[parts.index(one) + 1] for one in ("interactions", "experts") if one in parts]
    return (
        any(part.startswith(f"{table_set}/") for part in parts)
        or (parts[0] in ("users", "items", "pairs") and parts[1] == table_set)
        or any(one == table_set or one.startswith(f"expert_{table_set}_") for one in experts)
    )
