"""The rows keep the dataset contract, and what they say of the past is true."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.data.schema import load_schema
from tests.unit.data_adsworld.conftest import days_of, read_day


def test_schema_names_columns_of_the_right_types(debug_world):
    schema = load_schema(debug_world)
    columns = read_day(debug_world, days_of(debug_world)[0]).schema
    for name, feature in schema.features.items():
        kind = columns.field(schema.column(name)).type
        match feature.kind:
            case "id":
                assert pa.types.is_integer(kind)
            case "ids" | "sequence":
                assert kind.value_type == pa.int64()
            case "number":
                assert pa.types.is_integer(kind) or pa.types.is_floating(kind)
            case "vector":
                assert kind == pa.list_(pa.float32(), feature.length)
    for key in (schema.user, schema.item, schema.time, schema.row_id):
        assert columns.field(key).type == pa.int64()
    assert schema.tasks["conversion"].duration == "conversion_delay_ms"


def test_nulls_stand_only_where_the_schema_allows_them(debug_world):
    schema = load_schema(debug_world)
    may_be_null = {task.label for task in schema.tasks.values()} | {"conversion_delay_ms"}
    may_be_null |= {schema.column(name) for name, f in schema.features.items() if f.nullable}
    for day in days_of(debug_world):
        table = read_day(debug_world, day)
        for name in set(table.schema.names) - may_be_null:
            assert table[name].null_count == 0, name


def test_rows_are_in_time_order_within_their_day(debug_world):
    for number, day in enumerate(days_of(debug_world)):
        time = read_day(debug_world, day)["time"].to_numpy()
        midnight = np.datetime64("2026-01-01", "ms").astype(int) + number * 86_400_000
        assert (np.diff(time) >= 0).all()
        assert time[0] >= midnight
        assert time[-1] < midnight + 86_400_000


def test_row_ids_are_unique_and_tie_the_oracle_to_its_rows(debug_world):
    ids = [read_day(debug_world, day)["row_id"].to_numpy() for day in days_of(debug_world)]
    assert len(np.unique(np.concatenate(ids))) == 6_000
    for day, row_ids in zip(days_of(debug_world), ids, strict=True):
        oracle = pq.ParquetDataset(debug_world / "oracle" / f"day={day}").read()
        assert np.array_equal(oracle["row_id"].to_numpy(), row_ids)


def test_labels_stand_in_the_rows_of_their_domain(debug_world):
    schema = load_schema(debug_world)
    for day in days_of(debug_world):
        table = read_day(debug_world, day)
        domain = table["domain"].to_numpy()
        for task in schema.tasks.values():
            known = table[task.label].is_valid().to_numpy()
            assert np.array_equal(
                known, np.isin(domain, [schema.domains.index(d) for d in task.domains])
            )
        assert np.array_equal(table["scenario"].to_numpy() >= 2, domain == 1)


def test_each_day_has_both_classes(debug_world):
    for day in days_of(debug_world):
        rows = read_day(debug_world, day).to_pylist()
        for task in ("click", "conversion"):
            assert {row[task] for row in rows if row["domain"] == 1} == {0, 1}
        assert {row["long_view"] for row in rows if row["domain"] == 0} == {0, 1}


def test_exposure_counts_are_those_of_a_loop(debug_world):
    repeated = 0
    for day in days_of(debug_world):
        seen = defaultdict(int)
        for row in read_day(debug_world, day).to_pylist():
            assert row["seen_today"] == seen[row["user"], row["item"]]
            seen[row["user"], row["item"]] += 1
            repeated += row["domain"] == 1 and row["seen_today"] > 0
    assert repeated > 0.1 * 6 * 400


def test_recent_clicks_are_those_of_a_loop_over_earlier_days(debug_world):
    clicked = defaultdict(list)
    carried = 0
    for number, day in enumerate(days_of(debug_world)):
        rows = read_day(debug_world, day).to_pylist()
        for row in rows:
            expected = clicked[row["user"]][-10:]
            assert row["recent_items"] == [item for item, _, _ in expected]
            assert row["recent_categories"] == [category for _, category, _ in expected]
            assert row["recent_times"] == [time for _, _, time in expected]
            assert all(time < row["time"] for time in row["recent_times"])
            carried += bool(expected)
        assert number > 0 or carried == 0
        for row in rows:
            if row["domain"] == 0 and row["click"]:
                clicked[row["user"]].append((row["item"], row["category"], row["time"]))
    assert carried > 0.5 * 5 * 1_000


def test_a_user_s_vector_is_the_mean_unit_vector_of_recent_items(debug_world):
    days = [read_day(debug_world, day).to_pylist() for day in days_of(debug_world)]
    vectors = {row["item"]: row["item_vector"] for rows in days for row in rows}
    unit = {key: np.array(vector) / np.linalg.norm(vector) for key, vector in vectors.items()}
    told = 0
    for row in (row for rows in days for row in rows):
        assert (row["user_vector"] is None) == (not row["recent_items"])
        if row["recent_items"]:
            mean = np.mean([unit[item] for item in row["recent_items"]], axis=0)
            np.testing.assert_allclose(row["user_vector"], mean, rtol=1e-5, atol=1e-6)
            told += 1
    assert 0.5 * 5 * 1_000 < told < 6_000


def test_conversions_come_after_clicks_with_a_positive_delay(debug_world):
    for day in days_of(debug_world):
        for row in read_day(debug_world, day).to_pylist():
            assert (row["conversion_delay_ms"] is not None) == (row["conversion"] == 1)
            assert row["conversion"] != 1 or (row["click"] == 1 and row["conversion_delay_ms"] > 0)


def test_an_item_keeps_what_it_is(debug_world):
    seen = {}
    for number, day in enumerate(days_of(debug_world)):
        for row in read_day(debug_world, day).to_pylist():
            facts = [row[name] for name in ("category", "author", "tags", "price", "item_vector")]
            facts.append(row["item_age_days"] - number)
            assert seen.setdefault(row["item"], facts) == facts
            assert 1 <= len(row["tags"]) <= 4


def test_numbers_are_standardised_by_the_moments_of_the_first_days(debug_world):
    schema = load_schema(debug_world)
    tables = [read_day(debug_world, day) for day in days_of(debug_world)[:3]]
    for name in schema.select(kind="number"):
        feature = schema.features[name]
        values = pa.concat_tables(tables)[name].drop_null().to_numpy().astype(float)
        values = np.sign(values) * np.log1p(np.abs(values)) if feature.log else values
        assert abs((values.mean() - feature.mean) / feature.std) < 1e-4
        assert abs(values.std() / feature.std - 1) < 1e-4


def test_days_are_drawn_apart(debug_world):
    days = [read_day(debug_world, day) for day in days_of(debug_world)]
    for before, after in pairwise(days):
        assert (before["user"].to_numpy() == after["user"].to_numpy()).mean() < 0.1
        assert (
            np.diff(before["time"].to_numpy()) != np.diff(after["time"].to_numpy())
        ).mean() > 0.9
