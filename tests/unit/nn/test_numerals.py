"""Numeral embeddings: which rows a value reads, and what that order is worth."""

import pytest
import torch
from torch import nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.numerals import NumeralConfig, NumeralEncoder, num_digits, numeral_rows

EACH_BASE = [NumeralConfig(), NumeralConfig(merge="sum"), NumeralConfig(bases=(5, 2, 3))]


def encode_by_loops(encoder, config, value, feature):
    """The sum of the rows of a value's digits, found by repeated division."""
    parts = []
    for base in config.bases:
        table = encoder.weight[f"base{base}"][feature].detach()
        if value == -1:
            parts.append(table[-1])
            continue
        total, rest = torch.zeros(table.shape[1]), value
        for position in range((len(table) - 1) // base):
            total += table[base * position + rest % base]
            rest //= base
        parts.append(total)
    return torch.cat(parts) if config.merge == "concat" else sum(parts)


def share_positions(encoder):
    """The trap: one table for all positions of a base."""
    for base in encoder.digits:
        table_FRD = encoder.weight[f"base{base}"].data
        for row in range(table_FRD.shape[1] - 1):
            table_FRD[:, row] = table_FRD[:, row % base]


def embed(encoder, *values):
    return encoder(torch.tensor(values).unsqueeze(1)).squeeze(1).detach()


def test_51_reads_the_rows_of_the_paper():
    # 51 is 110011 in base 2 and 001220 in base 3; least significant digit first.
    fifty_one = torch.tensor(51)
    assert numeral_rows(fifty_one, base=2, digits=6).tolist() == [1, 3, 4, 6, 9, 11]
    assert numeral_rows(fifty_one, base=3, digits=6).tolist() == [0, 5, 8, 10, 12, 15]


@pytest.mark.parametrize("base", [2, 3, 7, 10])
def test_rows_are_the_digits_and_no_two_values_share_all(base):
    values = torch.arange(1000).view(10, 100)
    digits = num_digits(1000, base=base)
    rows = numeral_rows(values, base=base, digits=digits)
    assert rows.shape == (10, 100, digits)
    digit = rows - base * torch.arange(digits)
    assert digit.min() == 0
    assert digit.max() == base - 1
    assert torch.equal((digit * base ** torch.arange(digits)).sum(-1), values)


@pytest.mark.parametrize(
    ("levels", "base", "digits"),
    [(1, 2, 1), (2, 2, 1), (3, 2, 2), (8, 2, 3), (9, 2, 4), (82, 3, 5)],
)
def test_digits_are_as_few_as_hold_the_levels(levels, base, digits):
    assert num_digits(levels, base=base) == digits


@pytest.mark.parametrize("config", EACH_BASE, ids=str)
def test_an_embedding_is_the_sum_of_its_rows(config):
    levels, features = 100, 3
    encoder = NumeralEncoder(features, levels=levels, dim=12, config=config)
    levels_BF = torch.randint(-1, levels, (50, features))
    levels_BF[0] = -1
    levels_BF[1] = levels - 1
    found = encoder(levels_BF)
    assert found.shape == (50, features, 12)
    for row, values in enumerate(levels_BF.tolist()):
        for feature, value in enumerate(values):
            wanted = encode_by_loops(encoder, config, value, feature)
            torch.testing.assert_close(found[row, feature].detach(), wanted)


@pytest.mark.parametrize("config", EACH_BASE, ids=str)
def test_gradient_reaches_the_rows_that_were_read_and_no_others(config):
    encoder = NumeralEncoder(2, levels=27, dim=12, config=config)
    encoder(torch.tensor([[5, -1], [5, -1]])).sum().backward()
    for base, digits in encoder.digits.items():
        grad_FR = encoder.weight[f"base{base}"].grad.sum(-1)
        read = numeral_rows(torch.tensor(5), base=base, digits=digits)
        width = encoder.weight[f"base{base}"].shape[-1]
        wanted = torch.zeros_like(grad_FR)
        wanted[0, read] = 2.0 * width
        wanted[1, -1] = 2.0 * width
        assert torch.equal(grad_FR, wanted)


def test_positions_have_their_own_rows():
    # 3 is 011 and 5 is 101: with one table for all positions they are the same sum.
    encoder = NumeralEncoder(1, levels=8, dim=8, config=NumeralConfig(bases=(2,)))
    three, five = embed(encoder, 3, 5)
    assert not torch.allclose(three, five)
    share_positions(encoder)
    three, five = embed(encoder, 3, 5)
    torch.testing.assert_close(three, five)


def test_a_missing_value_is_no_value():
    encoder = NumeralEncoder(1, levels=64, dim=8, config=NumeralConfig())
    every = embed(encoder, *range(-1, 64))
    distance = torch.cdist(every, every) + torch.eye(65)
    assert distance.min() > 1e-3


def test_features_have_their_own_rows():
    encoder = NumeralEncoder(2, levels=64, dim=8, config=NumeralConfig())
    one = encoder(torch.tensor([[9, 9]]))
    assert not torch.allclose(one[0, 0], one[0, 1])


def fit_and_score(embedding, dim):
    """Learn v / 1000 from 30% of the integers; return R^2 on the others."""
    values = torch.randperm(1000)
    target = values / 1000
    seen, unseen = values[:300], values[300:]
    model = nn.Linear(dim, 1)
    adam = torch.optim.Adam([*embedding.parameters(), *model.parameters()], lr=0.02)
    for _ in range(200):
        adam.zero_grad()
        loss = (model(embedding(seen)).squeeze(-1) - target[:300]).square().mean()
        loss.backward()
        adam.step()
    with torch.no_grad():
        found = model(embedding(unseen)).squeeze(-1)
    assert loss < 1e-3, "it has learned what it has seen"
    spread = (target[300:] - target[300:].mean()).square().sum()
    return 1 - ((found - target[300:]).square().sum() / spread).item()


class OneNumber(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, levels_B):
        return self.encoder(levels_B.unsqueeze(1)).squeeze(1)


def test_order_is_learned_from_a_part_of_the_integers():
    encoder = NumeralEncoder(1, levels=1000, dim=8, config=NumeralConfig())
    assert fit_and_score(OneNumber(encoder), 8) > 0.9


def test_ids_tell_nothing_of_integers_never_seen():
    ids = nn.Embedding(1000, 8)
    nn.init.normal_(ids.weight, std=1e-3)  # a larger start is noise, far below 0
    assert -0.3 < fit_and_score(ids, 8) < 0.1


def test_base_widths_and_state():
    concat = NumeralEncoder(3, levels=1000, dim=8, config=NumeralConfig())
    assert {name: tuple(one.shape) for name, one in concat.state_dict().items()} == {
        "weight.base2": (3, 2 * 10 + 1, 4),
        "weight.base3": (3, 3 * 7 + 1, 4),
    }
    added = NumeralEncoder(3, levels=1000, dim=7, config=NumeralConfig(merge="sum"))
    assert all(one.shape[-1] == 7 for one in added.state_dict().values())


@pytest.mark.parametrize("levels", [2, 1 << 16])
def test_start_has_the_spread_of_other_dense_fields_whatever_the_digits(levels):
    encoder = NumeralEncoder(64, levels=levels, dim=32, config=NumeralConfig())
    assert encoder(torch.ones(1, 64, dtype=torch.long)).std().item() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    ("bases", "said"), [((2, 1), "at least 2"), ((2, 3, 2), "differ"), ((), "at least one")]
)
def test_bad_bases_are_refused(bases, said):
    with pytest.raises(ValueError, match=said):
        NumeralConfig(bases=bases)


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        NumeralEncoder(1, levels=0, dim=8, config=NumeralConfig())


def test_a_width_that_bases_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"width 7 .* 2 bases \[2, 3\].* multiple of 2") as raised:
        NumeralEncoder(1, levels=10, dim=7, config=NumeralConfig())
    assert raised.value.everywhere
