"""What a row of a dataset means, written once more in plain Python, a row at a time."""

import math
import zlib

import pyarrow.parquet as pq

MASK = 2**64 - 1


def splitmix64(number):
    """The finaliser of SplitMix64 on Python integers."""
    mixed = (number + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def table_row(number, *, table, rows):
    return splitmix64(number ^ (zlib.crc32(table.encode()) << 32)) % rows


def records_of(dataset, day):
    """Return the rows of a day in file order, as dicts."""
    files = sorted((dataset.path / f"day={day}").glob("*.parquet"))
    return [record for file in files for record in pq.ParquetFile(file).read().to_pylist()]


def expected_row(record, schema, *, horizon=None):
    """Return what a model should get of one row."""
    labels = [label_of(record, task, schema, horizon=horizon) for task in schema.tasks.values()]
    return {
        "sparse": {name: bag_of(record, name, schema) for name in schema.select(sparse=True)},
        "numbers": [number_of(record, name, schema) for name in schema.select(kind="number")],
        "vectors": [
            component
            for name in schema.select(kind="vector")
            for component in record[schema.column(name)]
            or [math.nan] * schema.features[name].length
        ],
        "ages": {
            name: ages_of(record, feature, schema)
            for name, feature in schema.features.items()
            if feature.times
        },
        "labels": [label for label, _ in labels],
        "masks": [mask for _, mask in labels],
        "user": record[schema.user],
        "item": record[schema.item],
        "time": record[schema.time],
        "domain": record[schema.domain],
        "scenario": record[schema.scenario],
        "row_id": record[schema.row_id],
    }


def bag_of(record, name, schema):
    feature, value = schema.features[name], record[schema.column(name)]
    ids = [] if value is None else [value] if feature.kind == "id" else value
    kept = ids[-feature.max_length :] if feature.max_length else ids
    rows = schema.tables[feature.table].rows
    return [table_row(one, table=feature.table, rows=rows) for one in kept]


def ages_of(record, feature, schema):
    times = record[feature.times] or []
    kept = times[-feature.max_length :] if feature.max_length else times
    return [(record[schema.time] - time) / 1000 for time in kept]


def number_of(record, name, schema):
    feature, value = schema.features[name], record[schema.column(name)]
    if value is None:
        return math.nan
    if feature.log:
        value = math.copysign(math.log1p(abs(value)), value)
    return (value - feature.mean) / feature.std


def label_of(record, task, schema, *, horizon):
    """Return a label and whether the row has it."""
    domain, value = schema.domains[record[schema.domain]], record[task.label]
    if value is None or (task.domains and domain not in task.domains):
        return 0.0, 0.0
    if task.scenarios and record[schema.scenario] not in task.scenarios:
        return 0.0, 0.0
    if task.duration and horizon is not None and value:
        delay = record[task.duration]
        return float(delay is not None and record[schema.time] + delay <= horizon), 1.0
    return float(value), 1.0
