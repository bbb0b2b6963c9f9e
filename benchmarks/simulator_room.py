"""How much room an ads world leaves for transfer: ads click AUC of what a model could know at most.

    python -m benchmarks.simulator_room configs/prepare/adsworld.yaml output=out/room

Prepares the world, fits gradient-boosted trees on the ads rows of all but the last two days and
scores the last two. ``raw`` has every feature that is not an id or a list; ``heard`` adds what the
content rows of earlier days say of the user; ``interest`` adds the hidden shared interests instead;
``oracle`` is the true probability.
Dimension key: N ads rows, C content rows, U users, D interest dimensions, V vector length.
"""

import json
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from data.adsworld.items import VECTOR_LENGTH
from data.adsworld.prepare import Config, calendar_days, run
from data.adsworld.scenarios import SCENARIOS
from data.adsworld.world import World, build_world, make_day
from lfm4ads.core.config import load_config

Array = npt.NDArray[np.float32]
_RAW = "scenario age gender city device activity category price item_age_days hour seen_today"
_TEST_DAYS = 2


class Listener:
    """What content clicks of the days so far say of each user."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, dtype=np.int64)
        self._sums = np.zeros((0, VECTOR_LENGTH + 1), dtype=np.float32)

    def tell(self, key_N: npt.NDArray[np.int64]) -> Array:
        """Return the mean of item vectors, signed by click and shrunk towards zero (N, V)."""
        place_N = np.searchsorted(self._keys, key_N).clip(max=max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return np.zeros((len(key_N), VECTOR_LENGTH), dtype=np.float32)
        sums = self._sums[place_N] * (self._keys[place_N] == key_N)[:, None]
        return sums[:, :-1] / (sums[:, -1:] + 5)

    def listen(self, content: pa.Table) -> None:
        """Take in a day's content rows."""
        keys = np.concatenate([self._keys, content["user"].to_numpy()])
        click_C = content["click"].to_numpy().astype(np.float32)
        vector_CV = _vectors(content)
        heard = (click_C - click_C.mean())[:, None] * (vector_CV - vector_CV.mean(0))
        sums = np.concatenate([self._sums, np.hstack([heard, np.ones((len(heard), 1))])])
        self._keys, place = np.unique(keys, return_inverse=True)
        self._sums = np.zeros((len(self._keys), VECTOR_LENGTH + 1), dtype=np.float32)
        np.add.at(self._sums, place, sums)


def main(argv: Sequence[str]) -> None:
    """Print a line for each arm, and all of it as JSON on the last line."""
    config = load_config(Config, argv)
    run(config)
    world, listener = build_world(config.world, seed=config.seed), Listener()
    days = [
        _day_features(config, world=world, number=number, name=f"day={date:%Y%m%d}", said=listener)
        for number, date in enumerate(calendar_days(config.first_day, days=config.days))
    ]
    train = {name: np.concatenate([day[name] for day in days[:-_TEST_DAYS]]) for name in days[0]}
    test = {name: np.concatenate([day[name] for day in days[-_TEST_DAYS:]]) for name in days[0]}
    result = {"oracle": _aucs(test, score_N=test["oracle"])}
    for arm in ("raw", "heard", "interest"):
        model = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=100, random_state=0
        )
        model.fit(train[arm], train["click"])
        result[arm] = _aucs(test, score_N=model.predict_proba(test[arm])[:, 1])
    for arm, aucs in result.items():
        print(f"{arm:10}", " ".join(f"{name} {auc:.4f}" for name, auc in aucs.items()))
    print(json.dumps(result))


def _day_features(
    config: Config, *, world: World, number: int, name: str, said: Listener
) -> dict[str, Array]:
    table = pq.ParquetDataset(config.output / name).read()
    oracle = pq.ParquetDataset(config.output / "oracle" / name).read()
    is_ads = table["domain"].to_numpy() == 1
    ads = table.filter(pa.array(is_ads))
    day = make_day(world, day=number, start=0)
    raw = np.column_stack([ads[column].to_numpy() for column in _RAW.split()] + [_vectors(ads)])
    hidden_ND = day.shown.users.interest[day.shown.user[is_ads]]
    heard_NV = said.tell(ads["user"].to_numpy())
    said.listen(table.filter(pa.array(~is_ads)))
    return {
        "raw": raw,
        "heard": _beside(raw, user=heard_NV, item=_vectors(ads)),
        "interest": _beside(
            raw, user=hidden_ND, item=day.shown.items.topic[day.shown.item[is_ads]]
        ),
        "click": ads["click"].to_numpy(),
        "scenario": ads["scenario"].to_numpy(),
        "oracle": oracle["probability_click"].to_numpy()[is_ads],
    }


def _beside(raw: Array, *, user: Array, item: Array) -> Array:
    """Add a user's coordinates, and their match with the item, which trees cannot multiply."""
    return np.hstack([raw, user, np.sum(user * item, axis=1, keepdims=True)])


def _vectors(table: pa.Table) -> Array:
    flat = table["item_vector"].combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, VECTOR_LENGTH)


def _aucs(rows: dict[str, Array], *, score_N: Array) -> dict[str, float]:
    aucs = {"all": float(roc_auc_score(rows["click"], score_N))}
    for place in np.unique(rows["scenario"]):
        here = rows["scenario"] == place
        name = SCENARIOS[int(place)].name
        aucs[name] = float(roc_auc_score(rows["click"][here], score_N[here]))
    return aucs


if __name__ == "__main__":
    main(sys.argv[1:])
