"""Small days of events as states, for the tests of snapshots."""

import numpy as np
import torch

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.latest import fold_latest
from lfm4ads.data.manifest import Header, RepSpec
from lfm4ads.data.reps import write_snapshot
from lfm4ads.data.side import SideStates
from lfm4ads.data.sums import fold_events

DAY_MS = 86_400_000
BIGGEST = 2**63 - 1
SPECS = (
    RepSpec(name="ur", side="user", kind="latest", dim=4, read="sum", layer="user_tower"),
    RepSpec(
        name="cr_ads",
        side="user",
        kind="decayed",
        dim=3,
        read="layernorm",
        half_life=0.5 * DAY_MS,
        layer="mlp_2",
        domain="ads",
    ),
    RepSpec(name="cr_all", side="user", kind="decayed", dim=2, read="mean"),
    RepSpec(name="ir", side="item", kind="latest", dim=4, read="l2"),
)
USER_SPECS, ITEM_SPECS = SPECS[:3], SPECS[3:]


def one_rank(rank=0, world=1):
    """For what is not collective, a rank needs no peers."""
    return Ranks(rank=rank, world=world, device=torch.device("cpu"))


def header(as_of, *, upstream="a1", specs=SPECS):
    return Header(
        upstream=upstream,
        as_of=as_of,
        checkpoint_day=as_of,
        trained_through=as_of,
        representations=specs,
    )


def make_day(day, *, rows=600, keys=150):
    """Events as a dict of columns; some keys come on several days, some have no ad event."""
    rng = np.random.default_rng(day)
    known = np.append(np.random.default_rng(0).integers(0, 2**62, 2 * keys - 1), BIGGEST)
    return {
        "keys": np.append(rng.choice(known, keys)[rng.integers(0, keys, rows - 1)], BIGGEST),
        "times": (day % 100) * DAY_MS + rng.integers(0, DAY_MS, rows),
        "row_ids": day * 1_000_000 + rng.permutation(rows),
        "vectors": rng.normal(size=(rows, 4)).astype(np.float32),
        "ads": rng.random(rows) < 0.3,
    }


def join_days(*days):
    return {name: np.concatenate([day[name] for day in days]) for name in days[0]}


def states_of(events, rows=slice(None)):
    """Fold some rows into the states of both sides; ur skips one key in three."""
    keys, times, row_ids, vectors, ads = (
        events[name][rows] for name in ("keys", "times", "row_ids", "vectors", "ads")
    )
    counts = fold_events(keys, vectors[:, :0], times, half_life=None)
    some = keys % 3 > 0
    user = SideStates(
        counts=counts,
        decayed={
            "cr_ads": fold_events(
                keys[ads], vectors[ads, :3], times[ads], half_life=SPECS[1].half_life
            ),
            "cr_all": fold_events(keys, vectors[:, :2], times, half_life=None),
        },
        latest={"ur": fold_latest(keys[some], vectors[some], times[some], ties=row_ids[some])},
    )
    item = SideStates(
        counts=counts, decayed={}, latest={"ir": fold_latest(keys, vectors, times, ties=row_ids)}
    )
    return {"user": user, "item": item}


def assert_same_side(a, b, *, tolerance=1e-6):
    assert list(a.decayed) == list(b.decayed)
    assert list(a.latest) == list(b.latest)
    for mine, other in zip(a.parts(), b.parts(), strict=True):
        for name in ("keys", "time", "events", "tie", "vector"):
            if hasattr(mine, name):
                np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
    for mine, other in zip(a.decayed.values(), b.decayed.values(), strict=True):
        np.testing.assert_allclose(mine.sum, other.sum, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(mine.weight, other.weight, rtol=tolerance)


def write_day(root, day, *, previous=None, **options):
    return write_snapshot(
        one_rank(),
        root,
        header=header(day),
        states=states_of(make_day(day)),
        previous=previous,
        **options,
    )
