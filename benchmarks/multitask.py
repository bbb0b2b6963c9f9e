"""Training speed of multi-task networks, as a ratio to shared-bottom: ``benchmarks.multitask``.

The three tasks of the simulator, tables of the schema's width 16 in every set; _wide is a network
on one set as wide as STEM's four together.
"""

from benchmarks.experts import print_ratios
from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.tower import TowerConfig

TASKS = ("click", "long_view", "conversion")
_WIDE = 64
NETWORKS = {
    "shared_bottom": MultitaskConfig(kind="shared_bottom"),
    "shared_bottom_wide": MultitaskConfig(kind="shared_bottom", dim=_WIDE),
    "single": MultitaskConfig(kind="single"),
    "omoe": MultitaskConfig(kind="omoe", shared_experts=5),
    "mmoe": MultitaskConfig(kind="mmoe", shared_experts=5),
    "mmoe_wide": MultitaskConfig(kind="mmoe", shared_experts=5, dim=_WIDE),
    "ple": MultitaskConfig(kind="ple"),
    "ple_wide": MultitaskConfig(kind="ple", dim=_WIDE),
    "ple, 2 levels": MultitaskConfig(kind="ple", layers=2),
    "esmm": MultitaskConfig(kind="esmm"),
    "aitm": MultitaskConfig(kind="aitm"),
    "me_mmoe": MultitaskConfig(kind="me_mmoe", shared_experts=4, dim=16),
    "me_ple": MultitaskConfig(kind="me_ple"),
    "ame": MultitaskConfig(kind="ame", dims=(16, 16, 32), gate_input="trained"),
    "stem": MultitaskConfig(kind="stem"),
    "stem, 2 levels": MultitaskConfig(kind="stem", layers=2),
    "stem_al": MultitaskConfig(kind="stem_al", main=("click",)),
}


def config_of(network: MultitaskConfig) -> LfmConfig:
    """Return the whole model: identity towers, so that experts read the fields."""
    config = LfmConfig(
        context="user",
        tower=TowerConfig(rep_dim=0),
        mix=MixConfig(hidden=(64,)),
        multitask=network,
    )
    return expand_multitask(config, tasks=TASKS)


if __name__ == "__main__":
    print_ratios({name: config_of(network) for name, network in NETWORKS.items()}, words=__doc__)
