"""What became of the ids of managed tables, as figures and one line of the log."""

from lfm4ads.core.log import MetricsLog, log
from lfm4ads.shard.ids import IdRates
from lfm4ads.shard.sharded import Sharded


def log_ids(sharded: Sharded, metrics: MetricsLog, *, words: str, step: int, split: str) -> None:
    """Write the rates since the last time, by table; ``words`` say of what. Collective."""
    said: list[str] = []
    for maps in sharded.maps.values():
        for table, rates in maps.rates().items():
            _write(rates, metrics, table=table, step=step, split=split)
            said.append(
                f"{table} {rates.hit_ratio:.1%} hits, {rates.admitted_ratio:.1%} new,"
                f" {rates.overflow_ratio:.1%} sharing, {rates.evicted} evicted,"
                f" {rates.filled_ratio:.0%} full"
            )
    if said:
        log.info("%s ids: %s", words, "; ".join(said))


def _write(rates: IdRates, metrics: MetricsLog, *, table: str, step: int, split: str) -> None:
    for name, value, unit in (
        ("lookups", rates.lookups, "ids"),
        ("hits", rates.hit_ratio, "share of lookups"),
        ("new", rates.admitted_ratio, "share of lookups"),
        ("overflow", rates.overflow_ratio, "share of lookups"),
        ("admitted", rates.admitted, "rows"),
        ("evicted", rates.evicted, "rows"),
        ("filled", rates.filled_ratio, "share of rows"),
    ):
        metrics.write(f"ids/{table}/{name}", value, step=step, split=split, unit=unit)
