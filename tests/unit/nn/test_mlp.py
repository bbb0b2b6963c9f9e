"""The perceptron against loops over its numbers."""

import pytest
import torch

from lfm4ads.nn.mlp import Mlp


def mlp_by_loops(layers, row):
    """x_{l+1} = W relu(x_l) + b, the first without ReLU; return every pre-activation."""
    outputs = []
    for position, layer in enumerate(layers):
        if position:
            row = [max(value, 0.0) for value in row]
        row = [
            sum(w * value for w, value in zip(weights, row, strict=True)) + bias
            for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        outputs.append(row)
    return outputs


@pytest.mark.parametrize("hidden", [(), (3,), (6, 2), (4, 4, 1)])
def test_pre_activations_are_the_formula(hidden):
    torch.manual_seed(0)
    mlp, x_BH = Mlp(5, hidden).double(), torch.randn(7, 5, dtype=torch.float64)
    found = mlp(x_BH)
    assert mlp.width == (5, *hidden)[-1]
    assert [tuple(one.shape) for one in found] == [(7, width) for width in hidden]
    for row in range(7):
        wanted = mlp_by_loops(mlp.layers, x_BH[row].tolist())
        for one, values in zip(found, wanted, strict=True):
            torch.testing.assert_close(one[row], torch.tensor(values, dtype=torch.float64))
    assert all((one < 0).any() for one in found), "a ReLU on an output would hide its sign"


def test_dropout_acts_between_layers_and_only_in_training():
    torch.manual_seed(0)
    mlp, x_BH = Mlp(8, (64, 4), dropout=0.5), torch.randn(16, 8)
    torch.testing.assert_close(mlp(x_BH)[0], mlp.eval()(x_BH)[0], rtol=0, atol=0)
    still = mlp(x_BH)[1]
    torch.testing.assert_close(still, mlp(x_BH)[1], rtol=0, atol=0)
    drawn = torch.stack([mlp.train()(x_BH)[1] for _ in range(100)])
    assert not torch.equal(drawn[0], drawn[1])
    error = (drawn.mean(0) - still).abs() / (drawn.std(0) / 10)
    assert error.max() < 5, "dropout keeps the mean"
