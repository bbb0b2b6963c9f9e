"""From a config to the interaction it names."""

from typing import Literal

from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from lfm4ads.nn.interactions.ffm import Ffm
from lfm4ads.nn.interactions.flat import Flat
from lfm4ads.nn.interactions.fm import Fm, FmFm, WeightedFm
from lfm4ads.nn.interactions.gwpfm import GwPfm
from lfm4ads.nn.interactions.ipnn import Ipnn
from lfm4ads.nn.interactions.layout import FieldLayout

Interaction = Fm | WeightedFm | FmFm | Ffm | Ipnn | Flat | CrossNetwork | GwPfm
"""A module from the fields side by side (B, layout.width) to all its layers, input side first.

The last layer is its output, of ``width``; ``layer_names`` and ``layer_dims`` describe them all.
"""


def build_interaction(config: InteractionConfig, layout: FieldLayout) -> Interaction:
    """Return the interaction that ``config`` names, for fields laid out as ``layout``.

    Raises:
        UserError: The fields' widths do not suit the interaction.
    """
    match config.kind:
        case "fm" | "fwfm" | "ffm" | "gwpfm":
            return _build_plain(config.kind, layout)
        case "fmfm":
            return WeightedFm(layout, kind="fmfm") if config.diagonal else FmFm(layout)
        case "ipnn":
            return Ipnn(layout, raw=config.raw)
        case "flat":
            return Flat(layout)
        case "dcnv2":
            return CrossNetwork(layout.width, layers=config.layers, rank=config.rank)


def _build_plain(
    kind: Literal["fm", "fwfm", "ffm", "gwpfm"], layout: FieldLayout
) -> Fm | WeightedFm | Ffm | GwPfm:
    match kind:
        case "fm":
            return Fm(layout)
        case "fwfm":
            return WeightedFm(layout, kind="fwfm")
        case "ffm":
            return Ffm(layout)
        case "gwpfm":
            return GwPfm(layout)
