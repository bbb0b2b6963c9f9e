"""Arrow columns checked and turned into arrays; no Python per row.

Every fault names the file, the row group, the column and the fix.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lfm4ads.core.errors import UserError
from lfm4ads.data.hashing import keys_of_strings
from lfm4ads.data.schema import Feature, Schema

Array = npt.NDArray[Any]
_TypeTest = Callable[[pa.DataType], bool]


def _is_id(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_id_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_id(kind.value_type)


def _is_time_list(kind: pa.DataType) -> bool:
    return _is_id_list(kind) and pa.types.is_integer(kind.value_type)


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


_FEATURE_TYPES: dict[str, tuple[_TypeTest, str]] = {
    "id": (_is_id, "integer or string"),
    "ids": (_is_id_list, "list of integer or string"),
    "sequence": (_is_id_list, "list of integer or string"),
    "number": (_is_number, "a number"),
    "vector": (_is_vector, "fixed_size_list of float"),
}


def needed_columns(schema: Schema) -> list[str]:
    """Return every Parquet column that training reads, without repeats."""
    keys = [schema.user, schema.item, schema.time, schema.domain, schema.scenario]
    features = [schema.column(name) for name in schema.features]
    times = [feature.times for feature in schema.features.values()]
    labels = [column for task in schema.tasks.values() for column in (task.label, task.duration)]
    columns = dict.fromkeys([*keys, schema.row_id, *features, *times, *labels])
    return [column for column in columns if column]


def check_types(arrow: pa.Schema, schema: Schema, columns: list[str], *, file: Path) -> None:
    """Raise if a needed column is missing from a file or has a type its use cannot take."""
    for column in columns:
        if column not in arrow.names:
            raise UserError(
                f"{file} has no column {column}, which schema.yaml names;"
                " add it to the file or mend the schema"
            )
    wanted: dict[str, tuple[_TypeTest, str]] = {
        schema.user: _FEATURE_TYPES["id"],
        schema.item: _FEATURE_TYPES["id"],
    }
    integers = [
        schema.time,
        schema.domain,
        schema.scenario,
        *([schema.row_id] if schema.row_id else []),
    ]
    wanted.update(dict.fromkeys(integers, (pa.types.is_integer, "integer")))
    for name, feature in schema.features.items():
        wanted.setdefault(schema.column(name), _FEATURE_TYPES[feature.kind])
        if feature.times:
            wanted[feature.times] = (_is_time_list, "list of integer")
    for task in schema.tasks.values():
        wanted.update(
            {column: (_is_number, "a number") for column in (task.label, task.duration) if column}
        )
    for column, (fits, words) in wanted.items():
        kind = arrow.field(column).type
        if not fits(kind):
            hint = "; a float cannot hold ids above 2^53" if pa.types.is_floating(kind) else ""
            raise UserError(
                f"{file}: column {column} is {kind}, must be {words}{hint}; write it with that type"
            )


def not_null(values: pa.ChunkedArray | pa.Array, *, column: str, where: str) -> None:
    """Raise if the column has a null."""
    if values.null_count:
        raise UserError(
            f"{where}: column {column} has {values.null_count} null(s);"
            " drop those rows, fill them, or mark the feature nullable in schema.yaml"
        )


def flat(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the column as one array."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values


def present(values: pa.Array) -> Array:
    """Return which rows (N,) bool are not null."""
    return np.asarray(values.is_valid().to_numpy(zero_copy_only=False))


def _fits_float32(numbers: Array) -> bool:
    """Whether float32 holds every number; NaN fails the comparison too."""
    return bool((np.abs(numbers) <= np.finfo(np.float32).max).all())


def read_keys(values: pa.Array, *, column: str, where: str) -> Array:
    """Return int64 ids (N,): integers with every bit kept, strings hashed to 63 bits."""
    not_null(values, column=column, where=where)
    if not pa.types.is_integer(values.type):
        return keys_of_strings(values).to_numpy(zero_copy_only=False)
    try:
        whole = values if values.type == pa.int64() else values.cast(pa.int64())
        ids = whole.to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{where}: column {column} has an id of 2^63 or more; ids are 0 to 2^63-1"
        ) from error
    if len(ids) and ids.min() < 0:
        raise UserError(
            f"{where}: column {column} has the negative id {ids.min()};"
            " ids are 0 to 2^63-1, write a missing one as null"
        )
    return ids


def read_domain(table: pa.Table, schema: Schema, *, where: str) -> Array:
    """Return the domain (N,) of every row, checked before rows are chosen by it."""
    values = flat(table[schema.domain])
    return read_index(values, column=schema.domain, size=len(schema.domains), where=where)


def read_scenario(table: pa.Table, schema: Schema, *, where: str) -> Array:
    """Return the scenario (N,) of every row, checked before rows are chosen by it."""
    values = flat(table[schema.scenario])
    return read_index(values, column=schema.scenario, size=len(schema.scenarios), where=where)


def read_index(values: pa.Array, *, column: str, size: int, where: str) -> Array:
    """Return int64 (N,) of a column that indexes a list of ``size`` names in the schema."""
    ids = read_keys(values, column=column, where=where)
    if len(ids) and ids.max() >= size:
        raise UserError(
            f"{where}: column {column} has {ids.max()}, but schema.yaml lists only 0 to {size - 1}"
        )
    return ids


def read_number(values: pa.Array, feature: Feature, *, column: str, where: str) -> Array:
    """Return the standardised number (N,) float32; an allowed null becomes NaN."""
    if not feature.nullable:
        not_null(values, column=column, where=where)
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if feature.log:
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    standard = (numbers - feature.mean) / feature.std
    if not _fits_float32(standard[present(values)] if values.null_count else standard):
        raise UserError(
            f"{where}: column {column} has a NaN or infinite number;"
            " write a missing number as null and mark it nullable"
        )
    return standard.astype(np.float32)


def read_vector(values: pa.Array, feature: Feature, *, column: str, where: str) -> Array:
    """Return the vectors (N, length) float32; an allowed null becomes NaN in every component."""
    if not feature.nullable:
        not_null(values, column=column, where=where)
    if values.type.list_size != feature.length:
        raise UserError(
            f"{where}: column {column} holds vectors of {values.type.list_size},"
            f" schema.yaml says {feature.length}; mend one of them"
        )
    components = flat(values.flatten())
    not_null(components, column=column, where=where)
    numbers = components.to_numpy(zero_copy_only=False).reshape(-1, feature.length)
    if not _fits_float32(numbers):
        raise UserError(
            f"{where}: column {column} has a NaN or infinite component; write finite vectors"
        )
    if not values.null_count:
        return numbers.astype(np.float32)
    vectors = np.full((len(values), feature.length), np.nan, dtype=np.float32)
    vectors[present(values)] = numbers
    return vectors


def read_label(values: pa.Array, *, column: str, where: str, binary: bool) -> tuple[Array, Array]:
    """Return a label (N,) float64 with 0 for null, and its mask (N,).

    A delay of a few hours in milliseconds is more than float32 counts exactly.
    """
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    is_known = present(values)
    known = numbers[is_known]
    if not _fits_float32(known):
        raise UserError(
            f"{where}: label column {column} has a NaN or infinite value;"
            " write a missing label as null"
        )
    if binary and not np.isin(known, (0.0, 1.0)).all():
        raise UserError(
            f"{where}: label column {column} of a binary task holds values other than 0 and 1"
        )
    return np.where(is_known, numbers, 0.0), is_known.astype(np.float64)
