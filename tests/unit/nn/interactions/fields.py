"""Fields to interact, and pairs of them taken by two loops."""

import torch

from lfm4ads.nn.interactions.layout import FieldLayout


def make_layout(num_fields, *, dim, groups=None):
    names = tuple(f"f{index}" for index in range(num_fields))
    return FieldLayout(names, (dim,) * num_fields, tuple(groups or (0,) * num_fields))


def draw(layout, *, rows=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, layout.width, dtype=torch.float64, generator=generator)


def draw_weights(module, *, seed=4):
    """Put other numbers than the starting ones into every parameter, in float64."""
    module.double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return module


def split(x_W, layout):
    return list(x_W.split(list(layout.dims)))


def by_pairs(x_BW, layout, *, term):
    """Return the sum over pairs i < j of term(v, i, j, pair), row by row."""
    sums = []
    for x_W in x_BW:
        v, total, pair = split(x_W, layout), 0, 0
        for j in range(layout.num_fields):
            for i in range(j):
                total = total + term(v, i, j, pair)
                pair += 1
        sums.append(total)
    return torch.stack(sums)


def assert_equal(found, wanted):
    """Equal to 1e-12 of the largest number, in float64."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == torch.float64
    assert wanted.abs().max() > 0
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def differ(found, wanted):
    return (found - wanted).abs().max() > 1e-3 * wanted.abs().max()
