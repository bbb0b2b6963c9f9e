"""A new upstream begins with a window of days, or with the old one's states mapped to it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lfm4ads.data.decay import read_sums
from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, do, run_jobs
from tests.pipeline.read import SIDES, column, dataset_rows, read_json, rep_rows, write_meta

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

AS_OF, LAST = 20260104, 20260105
WORDS = {
    "layers": ["towers", "top_1"],
    "half_life_days": [7.0],
    "half_life_events": [20.0],
    "last_as_of": LAST,
}
DAYS = [20260102, 20260103, 20260104]


def carry_words(old, **words):
    own = {"reps": old.reps, "pretrain": old.pretrain, "as_of": AS_OF, "days": DAYS}
    return {f"carry__{name}": value for name, value in (own | words).items()}


@pytest.fixture(scope="module")
def old(pretrained, tmp_path_factory):
    """Another seed's upstream and its representations, with its run folder beside them."""
    story = replace(pretrained, folder=tmp_path_factory.mktemp("old"))
    run_jobs(2, story.pretrain_job(seed=7), story.dump_job(**WORDS))
    return story


@pytest.fixture(scope="module")
def twin(pretrained, tmp_path_factory):
    """An upstream of another version that has the new one's weights, and its representations."""
    story = replace(pretrained, folder=tmp_path_factory.mktemp("twin"))
    shutil.copytree(pretrained.pretrain, story.pretrain)
    for path in story.pretrain.glob("checkpoints/*/meta.json"):
        meta = read_json(path)
        meta["upstream"] = "".join(reversed(meta["upstream"]))
        write_meta(path.parent, json.dumps(meta))
    run_jobs(2, story.dump_job(**WORDS))
    return story


@pytest.fixture(scope="module")
def rebuilt(pretrained, tmp_path_factory):
    """The new upstream's representations from all of the past."""
    story = replace(pretrained, folder=tmp_path_factory.mktemp("rebuilt"))
    run_jobs(2, story.dump_job(pretrain=pretrained.pretrain, **WORDS))
    return story


def carried(pretrained, old, folder, *, world=2, **words):
    story = replace(pretrained, folder=folder)
    words = {"pretrain": pretrained.pretrain} | WORDS | carry_words(old) | words
    run_jobs(world, story.dump_job(**words))
    return story


@pytest.mark.parametrize("world", [1, 2])
def test_a_twin_is_carried_to_what_is_rebuilt(pretrained, twin, rebuilt, tmp_path, world):
    assert twin.version != rebuilt.version
    story = carried(pretrained, twin, tmp_path, world=world)
    assert story.version == rebuilt.version
    for as_of in (AS_OF, LAST):
        manifest = read_json(story.snapshot(as_of) / "manifest.json")
        says = manifest["carried"]
        assert (says["upstream"], says["as_of"], says["days"]) == (twin.version, AS_OF, DAYS)
        names = {f"{one['side']}.{one['name']}" for one in manifest["representations"]}
        assert says["r2"].keys() == names
        assert min(says["r2"].values()) > 0.99999
        for side in SIDES:
            a, b = (rep_rows(one.snapshot(as_of), side) for one in (story, rebuilt))
            assert a["key"].equals(b["key"])
            assert a["events"].equals(b["events"])
            for name in (one["name"] for one in manifest["representations"] if one["side"] == side):
                mine, other = column(a, name), column(b, name)
                scale = np.abs(other).max()
                np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
                if name.startswith("cr"):
                    for suffix in ("time", "events"):
                        assert a[f"{name}_{suffix}"].equals(b[f"{name}_{suffix}"])
    days = sorted(path.name for path in story.snapshot(AS_OF).parent.iterdir())
    assert days == [f"as_of={AS_OF}", f"as_of={LAST}"]


def likeness(a, b, side, name):
    """Return the mean cosine of two dumps' vectors as read, less what all keys share."""
    tables = [rep_rows(one, side) for one in (a, b)]
    assert tables[0]["key"].equals(tables[1]["key"])
    vectors = []
    for table in tables:
        present = table[name].is_valid().to_numpy()
        sums = column(table, name)[present]
        read = read_sums(sums, column(table, f"{name}_weight")[present], "mean")
        vectors.append(read - read.mean(0))
    norms = [np.linalg.norm(each, axis=1) for each in vectors]
    return float(((vectors[0] * vectors[1]).sum(1) / (norms[0] * norms[1] + 1e-12)).mean())


def test_another_seed_is_carried_closer_than_it_was(pretrained, old, rebuilt, tmp_path):
    story = carried(pretrained, old, tmp_path)
    r2 = read_json(story.snapshot(AS_OF) / "manifest.json")["carried"]["r2"]
    for side in SIDES:
        for name in (
            f"cr_{slot}_{layer}_7d" for slot in ("content", "ads") for layer in ("towers", "top_1")
        ):
            mapped = likeness(story.snapshot(AS_OF), rebuilt.snapshot(AS_OF), side, name)
            unmapped = likeness(old.snapshot(AS_OF), rebuilt.snapshot(AS_OF), side, name)
            assert mapped > unmapped + 0.2, (side, name, mapped, unmapped)
            assert mapped > 0.5, (side, name, mapped)
            assert 0 < r2[f"{side}.{name}"] < 1
    # The next day's own events are added to what was carried.
    for side in SIDES:
        a, b = (rep_rows(one.snapshot(LAST), side) for one in (story, rebuilt))
        assert a["events"].equals(b["events"])


def test_refusals(pretrained, old, rebuilt, tmp_path):
    story = replace(pretrained, folder=tmp_path)
    base = {"pretrain": pretrained.pretrain} | WORDS
    cases = {
        "carry.days has 20260105, which is after carry.as_of 20260104: a leak": carry_words(
            old, days=[20260105]
        ),
        f"is of upstream {rebuilt.version}, as is the new one: nothing to carry": carry_words(
            old, pretrain=pretrained.pretrain
        ),
        f"holds representations of upstream ['{rebuilt.version}'], not {old.version}": carry_words(
            old, reps=rebuilt.reps
        ),
        "carry.as_of is 20260101, but the first checkpoint has seen labels through": carry_words(
            old, as_of=20260101, days=[]
        ),
        "has no day 20250101": carry_words(old, days=[20250101]),
        "has no user cr_content_cross_cross_1_7d; ask dump for what": carry_words(old)
        | {"layers": ["cross_cross_1"]},
        "first_as_of is 20260105, but the first snapshot is the carried one": carry_words(old)
        | {"first_as_of": 20260105},
        "window_days must be at least 0, and 0 beside carry": carry_words(old) | {"window_days": 2},
    }
    jobs = [story.dump_job(**(base | words)) for words in cases.values()]
    for results in run_ranks(do, 2, jobs, seconds=SECONDS):
        for sentence, result in zip(cases, results, strict=True):
            assert result is not None, sentence
            assert sentence in result[0]
    assert not list(tmp_path.rglob("manifest.json"))


def test_half_lives_that_differ_are_refused(pretrained, old, tmp_path):
    story = replace(pretrained, folder=tmp_path)
    words = {"pretrain": pretrained.pretrain} | WORDS | carry_words(old)
    # One horizon more keeps the suffixes, so the names are the old ones.
    one = story.dump_job(**(words | {"half_life_days": [7.4, 30.0], "layers": ["top_1"]}))
    ((result,),) = run_ranks(do, 1, [one], seconds=SECONDS)
    assert "has no user cr_content_top_1_7p4d" in result[0]
    one = story.dump_job(**(words | {"half_life_events": [20.2], "layers": ["top_1"]}))
    ((result,),) = run_ranks(do, 1, [one], seconds=SECONDS)
    assert "sums otherwise, by clock, half-life or slot, user cr_content_top_1_20e" in result[0]


def test_a_window_holds_its_days_alone(pretrained, rebuilt, tmp_path):
    story = replace(pretrained, folder=tmp_path)
    words = {"pretrain": pretrained.pretrain, "first_as_of": AS_OF, "window_days": 2} | WORDS
    one = story.dump_job(**(words | {"last_as_of": AS_OF}))
    wrong = story.dump_job(**(words | {"window_days": 3}))
    first, second, third = run_ranks(do, 1, [one, wrong, story.dump_job(**words)], seconds=SECONDS)[
        0
    ]
    assert first is third is None
    assert "was built with window_days=2, not 3; pass that, or overwrite=true" in second[0]
    for as_of, days in ((AS_OF, [20260103, 20260104]), (LAST, [20260103, 20260104, 20260105])):
        manifest = read_json(story.snapshot(as_of) / "manifest.json")
        assert (manifest["window_days"], manifest["first_day"]) == (2, 20260103)
        seen = dataset_rows(story.data, days, ["user", "item"])
        for side in SIDES:
            rows = rep_rows(story.snapshot(as_of), side)
            keys, counts = np.unique(seen[side].to_numpy(), return_counts=True)
            np.testing.assert_array_equal(rows["key"].to_numpy(), keys)
            np.testing.assert_array_equal(rows["events"].to_numpy(), counts)
    whole = read_json(rebuilt.snapshot(AS_OF) / "manifest.json")
    assert (whole["window_days"], whole["first_day"], whole["carried"]) == (0, 20260101, None)
