"""Number features as fields."""

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import Feature
from lfm4ads.nn.numbers import LinearNumbers, NumberConfig, NumeralNumbers
from lfm4ads.nn.numerals import NumeralConfig

AGE = Feature(kind="number", side="user", mean=40, std=10)
PRICE = Feature(kind="number", side="item", log=True)
NUMERALS = NumberConfig(kind="equal_frequency", dim=4, levels=64, kinds={"age": "integer"})


def test_linear_is_the_formula_and_missing_is_the_mean():
    numbers = LinearNumbers(2, dim=3)
    x = torch.tensor([[1.5, -2.0], [torch.nan, 0.5]])
    found = numbers(x)
    for row in range(2):
        for place in range(2):
            value = x[row, place].item() if not x[row, place].isnan() else 0.0
            wanted = value * numbers.weight[place] + numbers.bias[place]
            torch.testing.assert_close(found[row, 3 * place : 3 * place + 3], wanted)


def fitted(config=NUMERALS):
    numbers = NumeralNumbers([AGE, PRICE], ["age", "price"], config=config)
    ages = (torch.arange(18, 70).float() - 40) / 10
    numbers.quantiser.fit(torch.stack([ages, torch.linspace(-1, 5, 52)], dim=1).numpy())
    return numbers


def test_numerals_are_the_levels_digits_side_by_side():
    numbers = fitted()
    x = torch.tensor([[0.1, 2.0], [-2.2, torch.nan]])  # ages 41 and 18
    levels = numbers.quantiser(x)
    assert levels[:, 0].tolist() == [41 - 18, 0]
    found = numbers(x)
    assert found.shape == (2, 8)
    for place in range(2):
        alone = numbers.numerals(levels)[:, place]
        assert torch.equal(found[:, 4 * place : 4 * place + 4], alone)
    age = sum(numbers.numerals.weight["base2"][0, 2 * bit + (23 >> bit & 1)] for bit in range(6))
    torch.testing.assert_close(found[0, :2], age)


def test_a_missing_number_has_a_row_of_its_own():
    numbers = fitted()
    missing = numbers(torch.full((1, 2), torch.nan))
    wanted = torch.cat([numbers.numerals.weight[base][0, -1] for base in ("base2", "base3")])
    torch.testing.assert_close(missing[0, :4], wanted)
    values = torch.linspace(-3, 3, 50)[:, None].expand(-1, 2)
    assert not (numbers(values) == missing).all(dim=1).any()


def test_near_numbers_share_rows_that_far_ones_do_not():
    numbers = fitted()
    ages = (torch.tensor([40.0, 41.0, 23.0]) - 40) / 10
    near, other, far = numbers(torch.stack([ages, torch.zeros(3)], dim=1))[:, :4].detach()
    assert (near - other).norm() < (near - far).norm()


def test_gradients_reach_the_digits_seen():
    numbers = fitted()
    numbers(torch.tensor([[0.1, torch.nan]])).sum().backward()
    gradient = numbers.numerals.weight["base2"].grad.abs().sum(2)
    assert gradient[0].nonzero().flatten().tolist() == [
        2 * bit + (23 >> bit & 1) for bit in range(6)
    ]
    assert gradient[1].nonzero().flatten().tolist() == [gradient.shape[1] - 1]


def test_without_levels_nothing_is_scored():
    numbers = NumeralNumbers([AGE], ["age"], config=NUMERALS)
    with pytest.raises(UserError, match="has no levels yet; fit it on the training days"):
        numbers(torch.zeros(3, 1))


def test_levels_travel_with_the_weights():
    one, other = fitted(), NumeralNumbers([AGE, PRICE], ["age", "price"], config=NUMERALS)
    other.load_state_dict(one.state_dict())
    x = torch.randn(20, 2)
    assert torch.equal(one(x), other(x))


def test_the_merge_of_bases_can_be_chosen():
    both = NumberConfig(
        kind="equal_frequency", dim=3, levels=8, numerals=NumeralConfig(bases=(2, 3), merge="sum")
    )
    assert fitted(both)(torch.zeros(1, 2)).shape == (1, 6)


def test_a_quantiser_that_does_not_exist_is_refused():
    with pytest.raises(
        ValueError,
        match=r"number\.kinds\.age must be one of linear, raw, equal_frequency, log, integer, got",
    ):
        NumberConfig(kind="equal_frequency", kinds={"age": "thirds"})
