"""The perceptron against loops over its numbers."""

import pytest
import torch

from lfm4ads.nn import aligned
from lfm4ads.nn.mlp import Mlp, run_together


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


@pytest.mark.parametrize("width", [5, 70], ids=["narrow", "padded"])
def test_run_together_is_each_alone_with_its_gradients(width):
    torch.manual_seed(0)
    mlps = [
        Mlp(width, hidden, spectral=0.5).double().eval() for hidden in ((3,), (6, 2), (4, 4, 1))
    ]
    inputs = [torch.randn(7, width, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    reads = [inputs[0], inputs[1], inputs[0]]
    together = run_together(mlps, reads)
    alone = [mlp(x_BH) for mlp, x_BH in zip(mlps, reads, strict=True)]
    leaves = [*inputs, *(weight for mlp in mlps for weight in mlp.parameters())]
    gradients = []
    for found in (together, alone):
        flat = [one for layers in found for one in layers]
        total = sum((one * one.detach().roll(1, 0)).sum() for one in flat)
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def test_first_layers_of_one_tensor_are_one_product(monkeypatch):
    products, linear = [], aligned.F.linear

    def counted(x_BW, weight_HW, bias_H):
        products.append((id(x_BW), len(weight_HW)))
        return linear(x_BW, weight_HW, bias_H)

    monkeypatch.setattr(aligned.F, "linear", counted)
    shared, other = torch.randn(7, 5), torch.randn(7, 5)
    run_together([Mlp(5, (3,)), Mlp(5, (4,)), Mlp(5, (6,))], [shared, other, shared])
    assert products == [(id(shared), 9), (id(other), 4)]
