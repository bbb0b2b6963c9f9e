"""Settings that make no sense are refused with their name."""

import pytest

from lfm4ads.nn.interactions.config import InteractionConfig


def test_plain_cross_layers_are_the_default():
    config = InteractionConfig()
    assert (config.kind, config.layers, config.rank) == ("dcnv2", 3, 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": 0}, r"interaction\.layers must be at least 1, got 0"),
        ({"rank": -1}, r"interaction\.rank must be 0 \(full rank\) or more, got -1"),
        ({"kind": "fm", "layers": 4}, r"interaction\.layers is read by kind dcnv2 only.*is fm"),
        ({"kind": "ipnn", "rank": 2}, r"interaction\.rank is read by kind dcnv2 only"),
        ({"diagonal": True}, r"interaction\.diagonal is read by kind fmfm only.*is dcnv2"),
        ({"kind": "gwpfm", "raw": False}, r"interaction\.raw is read by kind ipnn only"),
    ],
)
def test_a_setting_that_is_wrong_or_not_read_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        InteractionConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 1, "rank": 8},
        {"kind": "fmfm", "diagonal": True},
        {"kind": "ipnn", "raw": False},
    ],
)
def test_a_setting_is_taken_by_its_own_kind(settings):
    InteractionConfig(**settings)
