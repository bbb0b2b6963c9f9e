"""The select stage on the debug world: what it writes, and that ranks do not change the choice."""

import pytest
import yaml

from lfm4ads.core.config import load_config
from lfm4ads.core.files import read_json
from lfm4ads.stages import select
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT

pytestmark = pytest.mark.multiproc


def run_select(ranks, words):
    path = ROOT / "configs" / "select" / "debug.yaml"
    return str(select.run(load_config(select.Config, [str(path), *words]), ranks))


def words_of(story, output, *more):
    return [f"data={story.data}", f"reps={story.reps}", f"output={output}", *more]


def test_blocks_are_chosen_alike_by_one_and_two_ranks(story, tmp_path):
    for world in (1, 2):
        # Ranks share a day's rows equally, so they hold the same rows only if all fit.
        words = words_of(story, tmp_path / f"r{world}", "max_rows=1000000", "size=2")
        run_ranks(run_select, world, words)
    one, two = (yaml.safe_load((tmp_path / f"r{w}/features.yaml").read_text()) for w in (1, 2))
    assert one["representations"] == two["representations"]
    assert len(one["representations"]) == 2
    assert all(name.split(".")[0] in ("user", "item") for name in one["representations"])
    sizes = read_json(tmp_path / "r1" / "selection.json")["path"]
    assert [row["size"] for row in sizes if row["chosen"]] == [2]
    assert (tmp_path / "r1" / "path.svg").stat().st_size > 1000


@pytest.mark.parametrize("choose", ["dims", "features"])
def test_dims_and_features_are_chosen(story, tmp_path, choose):
    words = words_of(story, tmp_path / choose, f"choose={choose}", "size=2")
    run_ranks(run_select, 1, words)
    fragment = yaml.safe_load((tmp_path / choose / "features.yaml").read_text())
    if choose == "dims":
        assert sum(len(dims) for dims in fragment["dims"].values()) == 2
        assert set(fragment["dims"]) == set(fragment["representations"])
    else:
        assert len(fragment["features"]) == 2
        assert fragment["representations"] == []
