"""One part file: the states of the keys one rank owns, sorted by key, as Parquet.

A representation is a ``fixed_size_list<float>`` column, null where the key has none, with companion
columns that make tomorrow's merge possible: weight, time and events of a decayed sum, time and tie
of a latest vector.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import whole_file
from lfm4ads.data.decay import Float32s, Int64s, State
from lfm4ads.data.latest import Latest
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.owner import owner
from lfm4ads.data.prefetch import prefetch
from lfm4ads.data.side import SideStates, merge_sides

ROW_GROUP_ROWS = 16_384
"""Also what a merge holds of each old part at a time."""

Mask = npt.NDArray[np.bool_]


def part_schema(specs: Sequence[RepSpec]) -> pa.Schema:
    """Return the columns of a part file."""
    fields = [pa.field("key", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.int64()) for name in ("events", "last_time")]
    for spec in specs:
        vector, *companions = spec.columns
        fields.append(pa.field(vector, pa.list_(pa.float32(), spec.dim)))
        fields += [
            pa.field(name, pa.float64() if name.endswith("_weight") else pa.int64())
            for name in companions
        ]
    return pa.schema(fields)


def to_table(states: SideStates, specs: Sequence[RepSpec]) -> pa.Table:
    """Return one row per key that any state has, sorted by key."""
    keys = states.keys
    columns: list[pa.Array] = [pa.array(keys)]
    absent, rows = _place(keys, states.counts.keys)
    columns += [
        _scalars(values, rows=rows, absent=absent)
        for values in (states.counts.events, states.counts.time)
    ]
    for spec in specs:
        if spec.kind == "decayed":
            decayed = states.decayed[spec.name]
            vectors, companions = decayed.sum, (decayed.weight, decayed.time, decayed.events)
        else:
            latest = states.latest[spec.name]
            vectors, companions = latest.vector, (latest.time, latest.tie)
        absent, rows = _place(keys, (states.decayed | states.latest)[spec.name].keys)
        columns.append(_lists(vectors, rows=rows, absent=absent))
        columns += [_scalars(values, rows=rows, absent=absent) for values in companions]
    return pa.Table.from_arrays(columns, schema=part_schema(specs))


def _place(keys: Int64s, some: Int64s) -> tuple[Mask | None, Int64s]:
    """Return which ``keys`` are not among ``some``, None if all are, and the rows of ``some``."""
    rows = np.searchsorted(keys, some)
    if len(some) == len(keys):
        return None, rows
    absent = np.ones(len(keys), dtype=np.bool_)
    absent[rows] = False
    return absent, rows


def _scalars(values: npt.NDArray[np.generic], *, rows: Int64s, absent: Mask | None) -> pa.Array:
    if absent is None:
        return pa.array(values)
    filled = np.zeros(len(absent), dtype=values.dtype)
    filled[rows] = values
    return pa.array(filled, mask=absent)


def _lists(
    vectors: npt.NDArray[np.floating], *, rows: Int64s, absent: Mask | None
) -> pa.FixedSizeListArray:
    dim = vectors.shape[1]
    if absent is None:
        flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), dim)
    matrix = np.zeros((len(absent), dim), dtype=np.float32)
    matrix[rows] = vectors
    mask = pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dim, mask=mask)


def from_table(table: pa.Table, specs: Sequence[RepSpec]) -> SideStates:
    """Return the states a part's rows hold; the inverse of ``to_table``."""
    keys = int64s(table, "key")
    counted = valid(table, "events")
    counts = State(
        keys=keys[counted],
        sum=np.zeros((int(counted.sum()), 0)),
        weight=int64s(table, "events")[counted].astype(np.float64),
        time=int64s(table, "last_time")[counted],
        events=int64s(table, "events")[counted],
    )
    decayed: dict[str, State] = {}
    latest: dict[str, Latest] = {}
    for spec in specs:
        present, name = valid(table, spec.name), spec.name
        vectors, times = vectors_of(table, spec), int64s(table, f"{name}_time")[present]
        if spec.kind == "latest":
            ties = int64s(table, f"{name}_tie")[present]
            latest[name] = Latest(keys=keys[present], vector=vectors, time=times, tie=ties)
            continue
        decayed[name] = State(
            keys=keys[present],
            sum=vectors.astype(np.float64),
            weight=weights_of(table, spec),
            time=times,
            events=int64s(table, f"{name}_events")[present],
        )
    return SideStates(counts=counts, decayed=decayed, latest=latest)


def valid(table: pa.Table, column: str) -> Mask:
    """Return which rows (N,) of a column are not null."""
    return table.column(column).is_valid().to_numpy()


def int64s(table: pa.Table, column: str) -> Int64s:
    """Return an int64 column (N,), null as 0; no float in between, so large keys stay exact."""
    return table.column(column).fill_null(0).to_numpy()


def vectors_of(table: pa.Table, spec: RepSpec) -> Float32s:
    """Return the stored vectors (P, D) of the rows that have one."""
    flat = table.column(spec.name).combine_chunks().flatten()
    return flat.to_numpy(zero_copy_only=False).reshape(-1, spec.dim)


def weights_of(table: pa.Table, spec: RepSpec) -> npt.NDArray[np.float64]:
    """Return the weights (P,) of the rows that have a vector; 1 for a latest vector."""
    if spec.kind == "latest":
        return np.ones(int(valid(table, spec.name).sum()))
    return table.column(f"{spec.name}_weight").drop_null().to_numpy()


def owned_chunks(
    paths: Sequence[Path], specs: Sequence[RepSpec], *, rank: int, world: int
) -> Iterator[SideStates]:
    """Stream what ``rank`` of ``world`` owns of sorted part files, in ascending key ranges.

    Every part has a row group in memory; all rows up to the smallest last key of these are
    complete, so they go out.
    """
    if not paths:
        return
    streams = [_row_groups(path) for path in paths]
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        cut = min(int64s(head, "key")[-1] for head in heads if head is not None)
        ready: list[pa.Table] = []
        for index, head in enumerate(heads):
            if head is None:
                continue
            stop = int(np.searchsorted(int64s(head, "key"), cut, side="right"))
            ready.append(head.slice(0, stop))
            rest = head.slice(stop)
            heads[index] = rest if len(rest) else next(streams[index], None)
        table = pa.concat_tables(ready)
        table = table.filter(pa.array(owner(int64s(table, "key"), world=world) == rank))
        if len(table):
            yield from_table(table.sort_by("key") if len(paths) > 1 else table, specs)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of a damaged part file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); rerun dump for that day") from error


def _row_groups(path: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a part; iter_batches would keep all that it has read."""
    with readable(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)


def merged_chunks(
    old: Iterable[SideStates], new: SideStates, specs: Sequence[RepSpec]
) -> Iterator[SideStates]:
    """Merge ascending chunks with states in memory, as two sorted files are merged."""
    low: int | None = None
    for chunk in old:
        high = int(chunk.keys[-1])
        yield merge_sides(chunk, new.between(low, high), specs)
        low = high
    yield new.between(low, None)


def write_table_stream(path: Path, tables: Iterable[pa.Table], *, schema: pa.Schema) -> int:
    """Write tables as one Parquet file of even row groups, atomically; return the rows written.

    The next table is made in a thread while one is compressed.
    """
    num_rows = 0
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False, write_statistics=True
        ) as writer,
    ):
        waiting = schema.empty_table()
        for table in prefetch(tables, depth=1):
            waiting = pa.concat_tables([waiting, table])
            full = len(waiting) // ROW_GROUP_ROWS * ROW_GROUP_ROWS
            if full:
                writer.write_table(waiting.slice(0, full), row_group_size=ROW_GROUP_ROWS)
                waiting = waiting.slice(full).combine_chunks()
            num_rows += len(table)
        if len(waiting):
            writer.write_table(waiting)
    return num_rows


def split_chunks(chunks: Iterable[SideStates]) -> Iterator[SideStates]:
    """Cut chunks to at most a row group of keys, so that only so much is converted at a time."""
    for chunk in chunks:
        keys = chunk.keys
        if not len(keys):
            continue
        bounds = [
            *(int(key) for key in keys[ROW_GROUP_ROWS - 1 : -1 : ROW_GROUP_ROWS]),
            int(keys[-1]),
        ]
        low: int | None = None
        for high in bounds:
            yield chunk.between(low, high)
            low = high
