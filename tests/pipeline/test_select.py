"""The select stage on the debug world: what it chooses, writes, and what others make of it."""

import pytest
import yaml

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.stages import select
from tests.gloo import run_ranks as start_ranks
from tests.pipeline.jobs import ROOT, SECONDS, do, run_jobs
from tests.pipeline.planted import USEFUL, plant

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]
WANTED = sorted(f"{side}.{name}" for side, (name, _) in USEFUL.items())


def run_ranks(body, world, *arguments):
    """Run a body on ranks with the patience of a loaded machine."""
    return start_ranks(body, world, *arguments, seconds=SECONDS)


def run_select(ranks, runs):
    path = ROOT / "configs" / "select" / "debug.yaml"
    return [
        str(select.run(load_config(select.Config, [str(path), *words]), ranks)) for words in runs
    ]


def words_of(story, output, *more):
    return [f"data={story.data}", f"reps={story.reps}", f"output={output}", *more]


def choice_of(output):
    return yaml.safe_load((output / "features.yaml").read_text())


@pytest.fixture(scope="module")
def planted(story, tmp_path_factory):
    """Representations of noise with two planted dims, and what select chose of them."""
    folder = tmp_path_factory.mktemp("planted")
    reps = plant(story, folder / "reps")
    words = words_of(story, folder / "dims", f"reps={reps}", "choose=dims", "max_size=8")
    blocks = words_of(story, folder / "blocks", f"reps={reps}", "size=2")
    run_ranks(run_select, 1, [words, blocks])
    return folder


def test_planted_dims_are_found_and_noise_is_left_out(planted):
    choice = choice_of(planted / "dims")
    assert sorted(choice["representations"]) == WANTED
    assert choice["dims"] == {f"{side}.{name}": [dim] for side, (name, dim) in USEFUL.items()}
    assert choice["features"] is None
    assert choice["criterion"]["name"] == "ebic"
    assert choice["command"]
    report = read_json(planted / "dims" / "report.json")
    best = min(report["path"], key=lambda row: row["ebic"])
    assert best == report["chosen"]
    assert best["ebic"] == pytest.approx(choice["criterion"]["value"])
    assert [row["size"] for row in report["path"]][:4] == [0, 1, 2, 3]
    assert (planted / "dims" / "path.svg").stat().st_size > 1000


def test_planted_blocks_are_found(planted):
    choice = choice_of(planted / "blocks")
    assert sorted(choice["representations"]) == WANTED
    assert "dims" not in choice


def test_transfer_reads_what_was_chosen(story, planted, tmp_path):
    words = {"input__reps": planted / "reps", "only": ["adapter"], "fit__max_epochs": 1}
    every = story.transfer_job(output=tmp_path / "all", **words)
    few = story.transfer_job(
        output=tmp_path / "few", input__select=planted / "dims" / "features.yaml", **words
    )
    run_jobs(1, every, few)
    reports = [read_json(tmp_path / name / "adapter/seed-0/report.json") for name in ("all", "few")]
    assert sorted(reports[1]["representations"]) == WANTED
    assert len(reports[0]["representations"]) > len(WANTED)
    dense = [report["num_parameters"]["dense"] for report in reports]
    assert dense[1] < dense[0]
    aucs = [
        row["auc"]
        for report in reports
        for row in report["metrics"]
        if (row["split"], row["scenario"], row["task"]) == ("test", "all", "click")
    ]
    assert aucs[1] > aucs[0] - 0.01


def test_pretrain_reads_the_features_chosen(story, tmp_path):
    words = words_of(story, tmp_path / "fields", "choose=features", "size=6")
    run_ranks(run_select, 1, [words])
    choice = choice_of(tmp_path / "fields")
    assert len(choice["features"]) == 6
    assert choice["representations"] is None
    file = tmp_path / "features.yaml"
    file.write_text(yaml.safe_dump({"features": ["user_id", "item_id", "hour"]}))
    job = story.pretrain_job(output=tmp_path / "run", select=file, days__last=20260103)
    run_jobs(1, job)
    config = yaml.unsafe_load((tmp_path / "run" / "config.yaml").read_text())
    assert "age" in config["model"]["without"]
    assert not {"user_id", "item_id", "hour"} & set(config["model"]["without"])


def test_a_wrong_choice_is_one_sentence(story, planted, tmp_path):
    file = tmp_path / "features.yaml"

    def transfer(content, **words):
        path = tmp_path / f"{abs(hash(str(content)))}.yaml"
        path.write_text(yaml.safe_dump(content))
        return story.transfer_job(output=tmp_path / "t", input__select=path, **words)

    cases = [
        (story.transfer_job(output=tmp_path / "t", input__select=file), "does not exist; run sel"),
        (transfer({"representations": ["user.no"]}), "chooses representation user.no, which is"),
        (transfer({"representations": []}), "chooses no representation at all"),
        (transfer({"features": ["nobody"]}), "chooses feature nobody, which is not there"),
        (transfer({"representation": ["user.ur"]}), "there is no key representation"),
        (transfer({"representations": ["item.ir"]}), "arm sum reads user.ur, of which nothing"),
        (
            transfer({"representations": ["user.ur"], "dims": {"user.ur": [99]}}, only=["sum"]),
            "dim 99 of user.ur is asked for, which has 16",
        ),
        (
            story.pretrain_job(
                output=tmp_path / "p", select=planted / "dims" / "features.yaml", overwrite=True
            ),
            "run select with choose=features",
        ),
    ]
    (found,) = run_ranks(do, 1, [job for job, _ in cases])
    for result, (_, words) in zip(found, cases, strict=True):
        assert result is not None
        assert words in result[0]


def test_delays_are_chosen_for_by_a_cox_model(story, tmp_path):
    words = words_of(story, tmp_path / "c", "task=conversion", "among=click", "choose=dims")
    run_ranks(run_select, 1, [[*words, "size=2"]])
    report = read_json(tmp_path / "c" / "report.json")
    assert report["model"] == "cox"
    assert report["chosen"]["size"] == 2
    assert 0 < report["rows"] < 800


def test_blocks_are_chosen_alike_by_one_and_two_ranks(story, tmp_path):
    for world in (1, 2):
        # Ranks share a day's rows equally, so they hold the same rows only if all fit.
        words = words_of(story, tmp_path / f"r{world}", "max_rows=1000000", "size=2")
        run_ranks(run_select, world, [words])
    one, two = (choice_of(tmp_path / f"r{world}") for world in (1, 2))
    assert one["representations"] == two["representations"]
    assert len(one["representations"]) == 2
    assert all(name.split(".")[0] in ("user", "item") for name in one["representations"])


def refused(ranks, runs):
    """Return the sentence with which each run was refused."""
    found = []
    for words in runs:
        try:
            run_select(ranks, [words])
        except UserError as error:
            found.append(str(error))
    return found


def test_tasks_that_are_not_there_are_refused(story, tmp_path):
    runs = [words_of(story, tmp_path / "no", words) for words in ("task=buy", "among=x")]
    (sentences,) = run_ranks(refused, 1, runs)
    assert "has no task buy for task; it has click" in sentences[0]
    assert "has no task x for among; it has click" in sentences[1]


@pytest.mark.parametrize("choose", ["dims", "features"])
def test_dims_and_features_are_chosen(story, tmp_path, choose):
    words = words_of(story, tmp_path / choose, f"choose={choose}", "size=2")
    run_ranks(run_select, 1, [words])
    choice = choice_of(tmp_path / choose)
    if choose == "dims":
        assert sum(len(dims) for dims in choice["dims"].values()) == 2
        assert set(choice["dims"]) == set(choice["representations"])
    else:
        assert len(choice["features"]) == 2
        assert choice["representations"] is None
