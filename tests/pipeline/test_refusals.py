"""What a stage refuses, it refuses in one sentence, the same on every rank, and changes nothing."""

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatchcase

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, do
from tests.pipeline.read import read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]


@pytest.fixture(scope="module")
def unfinished(story, tmp_path_factory):
    """A pretrain run that did not reach its end."""
    unfinished = replace(story, folder=tmp_path_factory.mktemp("unfinished"))
    shutil.copytree(story.pretrain, unfinished.pretrain)
    (unfinished.pretrain / "report.json").unlink()
    return unfinished


@pytest.fixture(scope="module")
def foreign(story, tmp_path_factory):
    """Representations that say they are of another upstream: by folder, and in a manifest."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(story.reps / f"upstream={story.version}", folder / "folder" / "upstream=f00d")
    shutil.copytree(story.reps, folder / "manifest")
    path = folder / "manifest" / f"upstream={story.version}" / "as_of=20260102" / "manifest.json"
    path.write_text(json.dumps(read_json(path) | {"upstream": "f00d"}))
    shutil.copytree(story.reps, folder / "both")
    shutil.copytree(folder / "folder", folder / "both", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def without_ads(story, tmp_path_factory):
    """The dataset without ads rows on the last day."""
    folder = tmp_path_factory.mktemp("content") / "data"
    shutil.copytree(story.data, folder)
    for path in folder.glob("day=20260106/*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.filter(pc.equal(rows["domain"], 0)), path)
    return folder


def pretrain_cases(story, unfinished):
    run, other, version = story.pretrain, unfinished.pretrain, story.version
    new = unfinished.folder / "new"
    yield "finished", story.pretrain_job(), f"{run} already holds a finished run; * overwrite=true"
    words = f"holds a run of another config (upstream {version}, this one is *); choose another *"
    yield "another config", unfinished.pretrain_job(seed=1), f"{other} {words}"
    yield "extend another", story.pretrain_job(seed=1, extend=True), f"{run} {words}"
    words = f"{story.data} has no day 20260107; it holds 20260101 to 20260106 (6 days)"
    yield "day", story.pretrain_job(days__last=20260107, output=new), words
    words = "*: days must be first <= base_last <= last, got 20260103, 20260102, 20260106"
    yield "days in disorder", story.pretrain_job(days__first=20260103, output=new), words
    words = "monitor is buy, but the tasks are click, long_view, conversion"
    yield "monitor", story.pretrain_job(monitor="buy", output=new), words
    words = "reader.lanes is 1 but there are 2 ranks; pass reader.lanes=2 or more"
    yield "lanes", story.pretrain_job(reader__lanes=1, output=new), words
    place = {"shard__place__tables__shop": "row_wise", "output": new}
    words = "place.tables names shop, which is no table of the model; the tables are *"
    yield "table", story.pretrain_job(**place), words
    words = "*: place.tables.user must be one of auto, *, got everywhere"
    yield "place", story.pretrain_job(shard__place__tables__user="everywhere", output=new), words
    words = "days.wait_days names click; tasks whose label takes time are conversion"
    yield "wait", story.pretrain_job(days__wait_days={"click": 1}, output=new), words
    words = "*: explore.kind=ucb needs a variance; set model.heads.kind=sngp"
    yield "explore", story.pretrain_job(explore__kind="ucb", output=new), words
    words = "*: loss.rank=jrc and model.heads.joint=true need each other; set both"
    yield "joint", story.pretrain_job(loss__rank="jrc", output=new), words
    words = f"{new}/schema.yaml does not exist; run 'make prepare' or point data at *"
    yield "no dataset", story.pretrain_job(data=new, output=new), words


def dump_cases(story, unfinished):
    new, version = unfinished.folder / "reps", story.version
    words = f"{story.reps} already holds snapshots of upstream {version} through 20260106; choose *"
    yield "finished", story.dump_job(), words
    words = "layer mlp_3 is not in the model; it has towers, cross_cross_1, *, merged, top_1"
    yield "layer", story.dump_job(layers=["mlp_3"], output=new), words
    words = "first_as_of is 20260101, * has seen labels through 20260102: a leak; use that day or *"
    yield "too early", story.dump_job(first_as_of=20260101, output=new), words
    words = f"{story.data} has no day 20260131; it holds 20260101 to 20260106 (6 days)"
    yield "day", story.dump_job(last_as_of=20260131, output=new), words
    words = f"{story.data} has no checkpoint of a day; run pretrain first or point pretrain at *"
    yield "no run", story.dump_job(pretrain=story.data, output=new), words


def transfer_cases(story, unfinished, foreign):
    new, version = unfinished.folder / "transfer", story.version
    words = f"{story.transfer} already holds every arm and seed; choose another output or *"
    yield "finished", story.transfer_job(), words
    words = f"{story.transfer}/vanilla/seed-0 already holds a finished run; choose another *"
    yield "another config", story.transfer_job(fit__max_epochs=1), words
    words = f"{story.pretrain} is upstream {version}, the representations are of f00d; point *"
    yield "upstream", story.transfer_job(input__reps=foreign / "folder", output=new), words
    manifest = f"upstream={version}/as_of=20260102/manifest.json"
    words = f"{foreign}/manifest/{manifest} is of upstream f00d, not {version}; rerun dump *"
    yield "manifest", story.transfer_job(input__reps=foreign / "manifest", output=new), words
    named = ", ".join(sorted([version, "f00d"]))
    words = f"{foreign}/both holds 2 upstream versions ({named}); pass input.upstream=<version> *"
    yield "two upstreams", story.transfer_job(input__reps=foreign / "both", output=new), words
    words = f"{story.data} holds 0 upstream versions (none); run dump first"
    yield "no reps", story.transfer_job(input__reps=story.data, output=new), words
    words = f"{story.reps} has no snapshot of upstream {version} before 20260102 *; run dump *"
    yield "first day", story.transfer_job(split__train_first=20260102, output=new), words


def request_cases(story, unfinished, without_ads):
    """What is asked of transfer and cannot be had."""
    new = unfinished.folder / "transfer"
    words = f"task buy cannot be trained or monitored here; {story.data} has click, *"
    yield "task", story.transfer_job(tasks="[buy]", output=new), words
    words = "task conversion cannot be trained or monitored here; *"
    yield "monitor", story.transfer_job(fit__monitor="conversion", output=new), words
    words = f"{story.data} has no day 20260107; it holds 20260101 to 20260106 (6 days)"
    yield "day", story.transfer_job(split__test_last=20260107, output=new), words
    words = f"{without_ads} has no ads rows in the test days"
    yield "no rows", story.transfer_job(input__data=without_ads, output=new), words
    words = f"{story.data} has no domain games; its schema lists content, ads"
    yield "domain", story.transfer_job(domain="games", output=new), words
    words = "model.features names colour, which the schema does not have; its features are *"
    yield "feature", story.transfer_job(model__features="[colour]", output=new), words
    words = "*debug.yaml: only names magic, which is no arm; the arms are vanilla, sum, *"
    yield "arm", story.transfer_job(only="[vanilla, magic]", output=new), words
    words = "no representation is called user.cr_x*; there are user.ur, item.ir, *"
    yield "pattern", story.transfer_job(arms="{one: {gate: [user.cr_x*]}}", output=new), words
    words = "copy names cross_9, which is no layer of the upstream; it has nothing, towers, *"
    yield "layer", story.transfer_job(arms="{one: {copy: cross_9}}", output=new), words
    words = "*an arm with copy is a network of its own; leave out what else enters"
    both = "{one: {copy: towers, gate: [user.ur]}}"
    yield "copy", story.transfer_job(arms=both, output=new), words
    words = f"{story.data} has no scenario shop; its schema lists *"
    yield "scenario", story.transfer_job(scenarios="[shop]", output=new), words


@pytest.fixture(scope="module")
def cases(story, unfinished, foreign, without_ads):
    """Triples of a name, a job, and the sentence that it must get, * for any words."""
    return [
        *pretrain_cases(story, unfinished),
        *dump_cases(story, unfinished),
        *transfer_cases(story, unfinished, foreign),
        *request_cases(story, unfinished, without_ads),
    ]


def state_of(*folders):
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: path.read_bytes() for path in paths}


def test_refusals(story, unfinished, cases):
    before = state_of(story.folder, unfinished.pretrain)
    results = run_ranks(do, 2, [job for _, job, _ in cases], seconds=SECONDS)
    assert results[0] == results[1], "the ranks disagree"
    wrong = []
    for (name, job, wanted), result in zip(cases, results[0], strict=True):
        sentence, everywhere = result or ("no error", False)
        fits = fnmatchcase(sentence, wanted.replace("[", "[[]"))
        if not (fits and everywhere and "\n" not in sentence):
            wrong.append(f"{job.stage}, {name}: {sentence}")
    assert wrong == []
    assert state_of(story.folder, unfinished.pretrain) == before
