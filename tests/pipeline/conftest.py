"""The debug world, and the whole story told on it once by two ranks."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from data.adsworld import prepare
from lfm4ads.core.config import load_config
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, Job, do_watched, everything, job, run_jobs


@dataclass(frozen=True)
class Story:
    """Where the stages of one run of the story read and write."""

    data: Path
    folder: Path

    @property
    def pretrain(self) -> Path:
        return self.folder / "pretrain"

    @property
    def reps(self) -> Path:
        return self.folder / "reps"

    @property
    def transfer(self) -> Path:
        return self.folder / "transfer"

    @property
    def version(self) -> str:
        """The upstream version, from the name of the only folder of representations."""
        (folder,) = self.reps.glob("upstream=*")
        return folder.name.removeprefix("upstream=")

    def snapshot(self, as_of: int) -> Path:
        return self.reps / f"upstream={self.version}" / f"as_of={as_of}"

    def pretrain_job(self, **words: object) -> Job:
        return job("pretrain", **({"data": self.data, "output": self.pretrain} | words))

    def dump_job(self, **words: object) -> Job:
        own = {"data": self.data, "pretrain": self.pretrain, "output": self.reps}
        return job("dump", **(own | words))

    def transfer_job(self, **words: object) -> Job:
        own = {
            "input__data": self.data,
            "input__pretrain": self.pretrain,
            "input__reps": self.reps,
            "output": self.transfer,
            "seeds": [0],
            # Each rank draws its own units, so with dropout the number of ranks would matter.
            "model__dropout": 0,
            "model__adapter_dropout": 0,
        }
        return job("transfer", **(own | words))

    def report_job(self, **words: object) -> Job:
        own = {
            "runs": f"[{self.transfer}]",
            "pretrain": self.pretrain,
            "oracle": self.data / "oracle",
            "output": self.folder,
        }
        return job("report", **(own | words))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The dataset of configs/prepare/debug.yaml."""
    output = tmp_path_factory.mktemp("world") / "data"
    path = ROOT / "configs" / "prepare" / "debug.yaml"
    return prepare.run(load_config(prepare.Config, [str(path), f"output={output}"]))


@pytest.fixture(scope="session")
def story(data, tmp_path_factory):
    """Pretrain, dump, four arms and the report, on two ranks; nobody may write into it."""
    story = Story(data, tmp_path_factory.mktemp("story"))
    run_jobs(2, story.pretrain_job(), story.dump_job(), story.transfer_job(), story.report_job())
    return story


@pytest.fixture(scope="session")
def pretrained(data, tmp_path_factory):
    """The first half of a story, for whoever dumps in other ways."""
    story = Story(data, tmp_path_factory.mktemp("pretrained"))
    run_jobs(2, story.pretrain_job())
    return story


FULL = everything(
    behaviours="recent_items",
    target="item_id",
    user="user_vector",
    item="item_vector",
    number="age",
    repeat="seen_today",
)


@dataclass(frozen=True)
class FullStory:
    """Pretrain and dump with everything on, and a run that is frozen after its base."""

    story: Story
    frozen: Story
    events: list[list[list[tuple]]]
    """Of each rank, of each of pretrain, dump and the frozen pretrain: see ``do_watched``."""


def tell_full(story, frozen, *, world):
    """Run the jobs on some ranks."""
    words = FULL | {"save_every_steps": 0}
    jobs = [
        story.pretrain_job(**words),
        story.dump_job(),
        frozen.pretrain_job(**words, days__frozen=True),
    ]
    return FullStory(story, frozen, run_ranks(do_watched, world, jobs, seconds=SECONDS))


@pytest.fixture(scope="session")
def full(data, tmp_path_factory):
    """Everything on, on two ranks."""
    folder = tmp_path_factory.mktemp("full")
    return tell_full(Story(data, folder / "on"), Story(data, folder / "frozen"), world=2)
