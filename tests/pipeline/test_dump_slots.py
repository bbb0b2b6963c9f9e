"""What a dump sums, by layer, slot and horizon, is what SQL makes of the rows it wrote."""

import re
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm4ads.data.schema import load_schema
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, do, run_jobs
from tests.pipeline.read import column, read_json, rep_rows

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

LAST = 20260106
LAYERS = ["towers", "cross_cross_1", "top_1"]
EVENTS = "['', click]"
BOTH = {"half_life_days": [0.5, 7.0], "half_life_events": [68.97, 4.0]}
BY = {
    # by, ranks, more words, where of each slot
    "domain": (2, {}, {"content": "domain = 0", "ads": "domain = 1"}),
    "scenario": (1, {}, {}),
    "all": (4, {"reader__lanes": 4}, {"all": "true"}),
}


def dumped(pretrained, folder, *, world, **words):
    """Return a story whose representations are in a folder."""
    story = replace(pretrained, folder=folder)
    words = {"layers": LAYERS, "events": EVENTS, "samples": True} | BOTH | words
    run_jobs(world, story.dump_job(pretrain=pretrained.pretrain, **words))
    return story


@pytest.fixture(scope="module", params=list(BY))
def slots(request, pretrained, tmp_path_factory):
    """A dump, and the condition of each of its slots."""
    world, words, where = BY[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "scenario":
        names = load_schema(pretrained.data).scenarios
        chosen = {name: names.index(name) for name in names[:2]}
        words = {"scenarios": list(chosen)}
        where = {name: f"scenario = {code}" for name, code in chosen.items()}
    return dumped(pretrained, folder, world=world, by=request.param, **words), where


def queries():
    """Return the SQL of the page that tells users: a setting, the view, by time, by event."""
    text = (ROOT / "docs" / "representations.md").read_text()
    return re.findall(r"```sql\n(.*?)```", text, flags=re.DOTALL)


def aggregate(story, *, side, layer, where, event, half_life, by_event, as_of=LAST):
    """Return key -> (S, Z, events) as the page's query gives it."""
    setting, view, by_time_query, by_event_query = queries()
    query = by_event_query if by_event else by_time_query
    swaps = {
        '"user"': f'"{side}"',
        "layer_top_1": f"layer_{layer}",
        "domain = 1": where,
        "label_click = 1": f"label_{event} = 1" if event else "true",
        "7.0 * 86400000": f"{half_life} * 86400000",
        "68.97": f"{half_life}",
    }
    for old, new in swaps.items():
        assert old in by_time_query + by_event_query
        query = query.replace(old, new)
    view = view.replace("<output>/upstream=<version>", str(story.snapshot(as_of).parent))
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(setting)
        connection.execute(view.replace("<as_of>", str(as_of)))
        rows = connection.execute(query).fetchnumpy()
    keys, counts = np.unique(rows["key"], return_counts=True)
    starts = np.cumsum(counts) - counts
    sums = rows["s"].reshape(len(keys), -1)
    return {
        int(key): (sums[row], float(rows["z"][starts[row]]), int(rows["events"][starts[row]]))
        for row, key in enumerate(keys)
    }


def assert_same(story, expected, *, side, name, as_of=LAST, tolerance=1e-6):
    table = rep_rows(story.snapshot(as_of), side)
    present = table[name].is_valid().to_numpy()
    keys = table["key"].to_numpy()[present]
    assert set(keys.tolist()) == set(expected)
    sums, weights = column(table, name)[present], column(table, f"{name}_weight")[present]
    counts = column(table, f"{name}_events")[present]
    wanted = np.stack([expected[int(key)][0] for key in keys])
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(sums, wanted, rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(weights, [expected[int(key)][1] for key in keys], rtol=tolerance)
    assert counts.tolist() == [expected[int(key)][2] for key in keys]


HORIZONS = {"0p5d": (0.5, False), "7d": (7.0, False), "69e": (68.97, True), "4e": (4.0, True)}


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("horizon", list(HORIZONS))
def test_sql_makes_the_same_of_the_samples(slots, side, horizon):
    story, where = slots
    half_life, by_event = HORIZONS[horizon]
    for layer, event in (("top_1", ""), ("towers", "click"), ("cross_cross_1", "click")):
        for slot, condition in where.items():
            name = "_".join(part for part in ("cr", slot, layer, event, horizon) if part)
            expected = aggregate(
                story, side=side, layer=layer, where=condition, event=event,
                half_life=half_life, by_event=by_event,
            )  # fmt: skip
            assert len(expected) > 10
            assert_same(story, expected, side=side, name=name)


def test_a_snapshot_of_the_middle_has_only_its_days(slots):
    story, where = slots
    slot, condition = next(iter(where.items()))
    for horizon, (half_life, by_event) in HORIZONS.items():
        expected = aggregate(
            story, side="user", layer="top_1", where=condition, event="",
            half_life=half_life, by_event=by_event, as_of=20260103,
        )  # fmt: skip
        name = f"cr_{slot}_top_1_{horizon}"
        assert_same(story, expected, side="user", name=name, as_of=20260103)
        with pytest.raises(AssertionError):
            assert_same(story, expected, side="user", name=name)


def test_another_half_life_is_told_apart(slots):
    """The control: a comparison that could not fail would not show anything."""
    story, where = slots
    slot, condition = next(iter(where.items()))
    for horizon, by_event in (("7d", False), ("69e", True)):
        wrong = aggregate(
            story, side="user", layer="top_1", where=condition, event="",
            half_life=8.0 if not by_event else 60.0, by_event=by_event,
        )  # fmt: skip
        with pytest.raises(AssertionError):
            assert_same(story, wrong, side="user", name=f"cr_{slot}_top_1_{horizon}")


def test_the_public_loop(slots):
    """S <- 0.99 S + c an event at a time, straight from the rows."""
    story, where = slots
    slot = next(iter(where))
    folder = story.snapshot(LAST).parent / "samples"
    code = int(where[slot].split()[-1]) if "=" in where[slot] else None
    sums, gamma = {}, 0.5 ** (1 / 68.97)
    assert gamma == pytest.approx(0.99, abs=1e-5)
    for day in sorted(folder.glob("day=*")):
        rows = [row for part in sorted(day.glob("*.parquet")) for row in read_rows(part)]
        for row in sorted(rows, key=lambda row: (row["time"], row["row_id"])):
            if code is None or row[where[slot].split()[0]] == code:
                total = gamma * sums.get(row["user"], 0.0) + np.float64(row["layer_top_1"])
                sums[row["user"]] = total
    table = rep_rows(story.snapshot(LAST), "user")
    name = f"cr_{slot}_top_1_69e"
    found = dict(zip(table["key"].to_pylist(), column(table, name), strict=True))
    scale = max(np.abs(total).max() for total in sums.values())
    for key, total in sums.items():
        np.testing.assert_allclose(found[key], total, rtol=1e-6, atol=1e-6 * scale)


def read_rows(part):
    return pq.ParquetFile(part).read().to_pylist()


def test_day_by_day_is_in_one_go(pretrained, tmp_path):
    words = {"events": EVENTS, "samples": False}
    whole = dumped(pretrained, tmp_path / "whole", world=2, first_as_of=LAST, **words)
    steps = dumped(pretrained, tmp_path / "steps", world=2, last_as_of=20260103, **words)
    dumped(pretrained, tmp_path / "steps", world=1, last_as_of=20260104, **words)
    dumped(pretrained, tmp_path / "steps", world=2, **words)
    assert sorted(path.name for path in whole.snapshot(LAST).parent.iterdir()) == [f"as_of={LAST}"]
    manifest = read_json(steps.snapshot(LAST) / "manifest.json")
    for side in ("user", "item"):
        one, other = (rep_rows(story.snapshot(LAST), side) for story in (whole, steps))
        assert one["key"].to_pylist() == other["key"].to_pylist()
        for spec in (spec for spec in manifest["representations"] if spec["side"] == side):
            name = spec["name"]
            a, b = column(one, name), column(other, name)
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6 * np.abs(a).max(), err_msg=name)
            for suffix in ("events", "time") if spec["kind"] == "decayed" else ("time",):
                assert one[f"{name}_{suffix}"].equals(other[f"{name}_{suffix}"])


def test_names_without_and_with_several_horizons(slots):
    story, where = slots
    names = {
        spec["name"]
        for spec in read_json(story.snapshot(LAST) / "manifest.json")["representations"]
    }
    wanted = {
        "_".join(part for part in ("cr", slot, layer, event, horizon) if part)
        for slot in where
        for layer in LAYERS
        for event in ("", "click")
        for horizon in HORIZONS
    }
    assert names == wanted | {"ur", "ir"}


def test_refusals(pretrained, tmp_path):
    story = replace(pretrained, folder=tmp_path)
    cases = {
        "scenarios names mall; the schema has": {"by": "scenario", "scenarios": ["mall"]},
        "domains has no effect with by=all; pass by=domain": {"by": "all", "domains": ["ads"]},
        "two representations would be named cr_ads_top_1_100d": {"half_life_days": [100.1, 100.2]},
        "half_life_days or half_life_events must give at least one": {"half_life_days": []},
        "half_life_events must be positive": {"half_life_events": [0.0]},
        "layers names one twice": {"layers": ["top_1", "top_1"]},
    }
    jobs = [story.dump_job(pretrain=pretrained.pretrain, **words) for words in cases.values()]
    (results,) = run_ranks(do, 1, jobs, seconds=SECONDS)
    for sentence, result in zip(cases, results, strict=True):
        assert result is not None, sentence
        assert sentence in result[0]
        assert "\n" not in result[0]


def test_samples_that_are_missing_are_not_skipped(pretrained, tmp_path):
    story = replace(pretrained, folder=tmp_path)
    words = {"pretrain": pretrained.pretrain}
    jobs = [story.dump_job(last_as_of=20260102, **words), story.dump_job(samples=True, **words)]
    (results,) = run_ranks(do, 1, jobs, seconds=SECONDS)
    assert results[0] is None
    assert "day=20260101 has no manifest.json, so it holds no finished samples" in results[1][0]
