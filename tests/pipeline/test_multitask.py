"""A multi-task network by name goes through the story like any upstream."""

from dataclasses import replace

import pytest

from lfm4ads.core.config import load_config
from lfm4ads.stages import pretrain
from tests.pipeline.jobs import SECONDS, run_jobs
from tests.pipeline.read import read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

TASKS = ("click", "long_view", "conversion")


@pytest.fixture(scope="module")
def stem(pretrained, tmp_path_factory):
    story = replace(pretrained, folder=tmp_path_factory.mktemp("stem"))
    run_jobs(
        2,
        replace(story.pretrain_job(), config="multitask_debug"),
        story.dump_job(layers=["merged_click", "level_2_expert_click_1_mlp_1", "top_1_click"]),
        story.transfer_job(
            arms={"vanilla": {}, "module": {"module": "both"}, "copy": {"copy": "everything"}}
        ),
    )
    return story


def test_its_run_says_what_the_name_stands_for(stem):
    model = load_config(pretrain.Config, [str(stem.pretrain / "config.yaml")]).model
    assert model.multitask.kind == "none"
    assert set(model.sets) == {*TASKS, "shared"}
    assert model.trains["click"] == [
        "expert_click_1", "expert_shared_1", "expert_shared_2",
    ]  # fmt: skip


def test_its_report_says_whom_the_tasks_read(stem):
    gates = read_json(stem.pretrain / "report.json")["gates"]
    assert set(gates) == set(TASKS)
    for shares in gates.values():
        assert list(shares) == [*TASKS, "shared"]
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) > 0
    lines = (stem.pretrain / "metrics.jsonl").read_text().splitlines()
    assert sum('"gate/click/shared"' in line for line in lines) >= 2


def test_it_serves_downstream_models_as_layers_as_a_module_and_as_a_copy(stem):
    """Both start at the upstream's logits, and learn on."""
    reports = {
        arm: read_json(stem.transfer / arm / "seed-0" / "report.json")
        for arm in ("vanilla", "module", "copy")
    }
    assert all(one["metrics"] for one in reports.values())
    manifest = read_json(next(iter(stem.reps.glob("*/*/manifest.json"))))
    names = {one["name"] for one in manifest["representations"]}
    assert any("level_2_expert_click_1_mlp_1" in name for name in names)
