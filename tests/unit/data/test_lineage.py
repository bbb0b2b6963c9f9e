"""What a report says its runs were made of is what lies in their folders."""

import hashlib
import json

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.lineage import lineage
from lfm4ads.data.runs import find_runs


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def world(tmp_path):
    """A dataset of three days, an upstream with two checkpoints, two snapshots, two arms."""
    days = {"20250103": 5, "20250101": 7, "20250102": 6}
    write(tmp_path / "data/dataset.json", {"name": "moon", "rows": 18, "rows_per_day": days})
    upstream = {"upstream": "v1", "commit": "abc", "steps": 9, "dataset": str(tmp_path / "data")}
    write(tmp_path / "pretrain/report.json", upstream)
    write(tmp_path / "pretrain/config.yaml", "a: 1\n")
    for day in (20250102, 20250101):
        write(tmp_path / f"pretrain/checkpoints/day={day}/manifest.json", {})
        manifest = {"trained_through": day, "checkpoint_day": day, "rows": {"user": 3, "item": 2}}
        manifest |= {"representations": [{}, {}]}
        write(tmp_path / f"reps/upstream=v1/as_of={day}/manifest.json", manifest)
    write(tmp_path / "pretrain/checkpoints/.tmp/manifest.json", {})
    write(tmp_path / "reps/upstream=v2/as_of=20250103/manifest.json", {})
    for arm, reads in (("vanilla", []), ("sum", ["user.ur"])):
        for seed in (0, 1):
            run = tmp_path / f"runs/{arm}/seed-{seed}"
            report = {"schema_version": 1, "arm": arm, "seed": seed, "upstream": "v1"}
            report |= {"dataset": str(tmp_path / "data"), "representations": reads}
            write(run / "report.json", report | {"commit": f"c{seed}"})
            paths = "".join(f"  {name}: {tmp_path / name}\n" for name in ("pretrain", "reps"))
            write(run / "config.yaml", f"input:\n{paths}  as_of: 20250102\n")
    return tmp_path


def test_every_link_is_read_from_its_folder(world):
    chain = lineage(find_runs([world / "runs"]))
    (dataset,) = chain["datasets"]
    assert (dataset["name"], dataset["rows"], dataset["num_days"]) == ("moon", 18, 3)
    assert (dataset["first_day"], dataset["last_day"]) == (20250101, 20250103)
    (upstream,) = chain["upstreams"]
    assert (upstream["version"], upstream["commit"], upstream["steps"]) == ("v1", "abc", 9)
    assert upstream["checkpoint_days"] == [20250101, 20250102]
    assert upstream["config_digest"] == hashlib.sha256(b"a: 1\n").hexdigest()[:12]
    (reps,) = chain["representations"]
    assert (reps["version"], reps["as_of_days"]) == ("v1", [20250101, 20250102])
    assert (reps["trained_through"], reps["num_representations"]) == (20250102, 2)
    assert reps["rows"] == {"user": 3, "item": 2}
    arms = {one.pop("arm"): one for one in chain["arms"]}
    assert arms["vanilla"]["representations"] == []
    assert arms["sum"] == {
        "stage": "transfer",
        "upstream": "v1",
        "representations": ["user.ur"],
        "as_of": 20250102,
        "seeds": [0, 1],
        "commits": ["c0", "c1"],
    }


def test_folders_that_are_gone_leave_none_and_no_guess(world):
    for name in ("data", "pretrain", "reps"):
        (world / name).rename(world / f"moved-{name}")
    chain = lineage(find_runs([world / "runs"]))
    (dataset,), (upstream,), (reps,) = (
        chain[name] for name in ("datasets", "upstreams", "representations")
    )
    assert (dataset["path"], dataset["rows"]) == (str(world / "data"), None)
    assert (upstream["version"], upstream["checkpoint_days"]) == (None, [])
    assert (reps["as_of_days"], reps["digest"]) == ([], None)


def test_an_upstream_named_twice_is_one_link(world):
    chain = lineage(find_runs([world / "runs"]), pretrain=world / "runs" / ".." / "pretrain")
    assert len(chain["upstreams"]) == 1


def test_the_folder_of_another_upstream_is_refused(world):
    write(world / "other/report.json", {"upstream": "v2"})
    with pytest.raises(UserError, match="holds upstream v2 but the runs used v1; pass the run"):
        lineage(find_runs([world / "runs"]), pretrain=world / "other")
