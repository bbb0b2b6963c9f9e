"""What the launch commands say of bad inputs, each tried on two ranks.

    python -m benchmarks.bad_inputs > errors.md

Builds small datasets with one fault each in a temporary folder, runs the commands two at a time
(8 minutes on 2 cores, 2 GB) and prints the page. It exits with 1 unless every bad input ends with
status 2 and one sentence that names what it should.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.worlds import tiny_table, with_column, with_value, write_tiny

ROOT = Path(__file__).resolve().parents[1]
DAY = 20260101
LARGE = 2**53
PAGE = """# What bad inputs are told

Made by `python -m benchmarks.bad_inputs`, which builds a dataset for each fault and runs the stage
on two ranks: `python -m launch.ranks --nproc-per-node 2 -m launch.<stage>
configs/<stage>/debug.yaml ...`. Each command ended with exit status 2 and this one sentence on
stderr, after `error: ` and beside the log's own lines; `<dataset>`, `<run>` and `<reps>` stand for
folders.

| bad input | stage | sentence |
|---|---|---|
"""

Fault = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One bad input."""

    name: str
    names: tuple[str, ...]
    """What the sentence must name."""
    fault: Fault | None = None
    """Done to the dataset first."""
    stage: str = "pretrain"
    words: tuple[str, ...] = ()
    """Of the command line, after the common ones; ``{here}`` is the case's folder, ``{good}`` that
    of a run that ended well, ``{root}`` that of all."""
    config: str = "debug"


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    status: int
    sentences: tuple[str, ...]
    """Lines on stderr that are not the log's."""


def part_of(dataset: Path) -> Path:
    """Return the file that faults are written into."""
    return dataset / f"day={DAY}" / "part-00001.parquet"


def with_fault(change: Callable[[pa.Table], pa.Table]) -> Fault:
    """Return what rewrites one file of a dataset."""

    def rewrite(dataset: Path) -> None:
        pq.write_table(change(pq.read_table(part_of(dataset))), part_of(dataset))

    return rewrite


def value(column: str, wrong: object, *, kind: pa.DataType | None = None) -> Fault:
    """Return what puts one wrong value into a column."""
    return with_fault(lambda table: with_value(table, column, wrong, row=7, kind=kind))


def cast(column: str, kind: pa.DataType) -> Fault:
    """Return what writes a column with another type."""

    def change(table: pa.Table) -> pa.Table:
        return with_column(table, column, table[column].combine_chunks().cast(kind))

    return with_fault(change)


def truncate(dataset: Path) -> None:
    """Cut a file in half, as an interrupted copy does."""
    content = part_of(dataset).read_bytes()
    part_of(dataset).write_bytes(content[: len(content) // 2])


def remove_files(dataset: Path) -> None:
    """Leave the schema alone."""
    for folder in dataset.glob("day=*"):
        shutil.rmtree(folder)


def data_cases() -> list[Case]:
    """Return faults of the dataset."""
    part = part_of(Path("<dataset>"))
    unsigned, real = pa.uint64(), pa.float64()
    faults: dict[str, tuple[Fault, tuple[str, ...]]] = {
        "missing column": (with_fault(lambda table: table.drop_columns("age")), ("age",)),
        "wrong type": (cast("age", pa.string()), ("age", "string", "a number")),
        "null key": (value("user_id", None), ("user_id", "1 null")),
        "null in a feature": (value("age", None), ("age", "nullable")),
        "NaN number": (value("price", float("nan")), ("price", "NaN")),
        "infinite vector component": (value("picture", [1.0, 2.0, np.inf, 0.0]), ("picture",)),
        "negative id": (value("item_id", -3), ("item_id", "-3")),
        "id above 2^53 in a float column": (cast("user_id", real), ("user_id", "double", "2^53")),
        "id of 2^63 or more": (value("user_id", 2**63, kind=unsigned), ("user_id", "2^63")),
        "domain that the schema does not list": (value("domain", 2), ("domain", "2", "0 to 1")),
        "label other than 0 and 1": (value("click", 2), ("click", "0 and 1")),
        "empty file": (lambda dataset: part_of(dataset).write_bytes(b"") and None, ("is empty",)),
        "file without rows": (with_fault(lambda table: table.slice(0, 0)), ("no rows",)),
        "truncated Parquet": (truncate, ("not whole Parquet",)),
    }
    cases = [
        Case(name=name, names=(str(part), *names), fault=fault)
        for name, (fault, names) in faults.items()
    ]
    files = ("<dataset>", "no files")
    schema = ("<dataset>/schema.yaml", "does not exist")
    none = Case(name="no files", names=files, fault=remove_files)
    return [*cases, none, Case(name="no dataset", names=schema, fault=shutil.rmtree)]


def config_cases() -> list[Case]:
    """Return faults of the words, and of what lies where the output should go."""

    def case(name: str, *names: str, words: Sequence[str], config: str = "debug") -> Case:
        return Case(name=name, names=names, words=tuple(words), config=config)

    upstream = "holds a run of another config (upstream <version>, this one is <version>)"
    few = ("days.base_last=20260101", "days.max_epochs=2", "days.valid_days=9")
    lanes = ("reader.batch_size=100", "reader.lanes=8")
    sparse = ("sparse_kind=adamw", "rowwise_adagrad")
    return [
        case("no config", "configs/pretrain/none.yaml", words=(), config="none"),
        case("unknown config key", "did you mean batch_size?", words=["reader.batchsize=64"]),
        case("wrong type in config", "seed=many", "Integer", words=["seed=many"]),
        case("choice that is none", *sparse, words=["shard.optim.sparse_kind=adamw"]),
        case("table that is none", "shop", "user", words=["shard.place.tables.shop=row_wise"]),
        case("batch that the lanes do not divide", "batch_size", "100 and 8", words=lanes),
        case("fewer lanes than ranks", "reader.lanes=2", words=["reader.lanes=1"]),
        case("out-of-range day", "<dataset>", "20260101 to 20260105", words=["days.last=20260131"]),
        case("days in disorder", "first <= base_last <= last", words=["days.first=20260103"]),
        case("too few days to validate on", "valid_days is 9", "4 days", words=few),
        case(
            "unwritable output", "cannot be written", words=["output={here}/data/schema.yaml/run"]
        ),
        case("output of a finished run", "<run>", "overwrite=true", words=["output={good}/run"]),
        case("output of another run", upstream, words=["output={root}/unfinished/run", "seed=5"]),
    ]


def later_cases() -> list[Case]:
    """Return faults of what the stages after pretrain are given."""

    def dump(name: str, *names: str, words: str) -> Case:
        return Case(name=name, names=names, stage="dump", words=(words,))

    def transfer(name: str, *names: str, words: str) -> Case:
        return Case(name=name, names=names, stage="transfer", words=(words,))

    def retrieve(name: str, *names: str, words: str) -> Case:
        return Case(name=name, names=names, stage="retrieve", words=(words,))

    def select(name: str, *names: str, words: str) -> Case:
        return Case(name=name, names=names, stage="select", words=(words,))

    longest = "lists.ks=[5000]"
    leak = ("20260101", "through 20260102: a leak")
    other = ("<run> is upstream <version>, the representations are of <version>",)
    forged = ("manifest.json is of upstream f00d, not <version>",)
    return [
        dump("layer that is none", "mlp_9", "mlp_2", words="layers=[mlp_9]"),
        dump("snapshot before the base ends", *leak, words="first_as_of=20260101"),
        dump("no checkpoint", "<dataset>", "run pretrain first", words="pretrain={here}/data"),
        dump("finished dump", "<reps>", "overwrite=true", words="output={good}/reps"),
        transfer("reps of another upstream", *other, words="input.pretrain={root}/other/run"),
        transfer("reps manifest of another", *forged, words="input.reps={root}/forged/reps"),
        transfer("no representations", "<dataset>", "run dump", words="input.reps={here}/data"),
        transfer("task that is none", "buy", "click", words="tasks=[buy]"),
        transfer("domain that is none", "games", "content, ads", words="domain=games"),
        transfer("arm that is none", "magic", "vanilla", words="arms=[magic]"),
        retrieve("no representations", "<dataset>", "run dump", words="input.reps={here}/data"),
        retrieve("task that is none", "buy", "click", words="task=buy"),
        retrieve("query that is none", "user.cr_x*", words="arms={{one: {{query: [user.cr_x*]}}}}"),
        retrieve("list longer than the catalogue", "5000", "lower ks", words=longest),
        select("no representations", "<dataset>", "run dump", words="reps={here}/data"),
        select("task that is none", "buy", "click", words="task=buy"),
        select("days in disorder", "first_day <= last_day", words="first_day=20260105"),
    ]


def common_words(stage: str, *, here: Path, good: Path) -> list[str]:
    """Return what every command of a stage is given."""
    match stage:
        case "pretrain":
            days = "days={first: 20260101, base_last: 20260102, last: 20260105}"
            return [f"data={here}/data", f"output={here}/run", days]
        case "dump":
            return [f"data={here}/data", f"pretrain={good}/run", f"output={here}/reps"]
        case "select":
            days = ["first_day=20260103", "last_day=20260104"]
            return [f"data={here}/data", f"reps={good}/reps", f"output={here}/select", *days]
        case _:
            days = "train_first: 20260103, train_last: 20260103, valid_last: 20260104"
            folders = f"data: {here}/data, reps: {good}/reps"
            if stage == "transfer":
                folders += f", pretrain: {good}/run"
            output = f"output={here}/{stage}"
            return [f"input={{{folders}}}", output, f"split={{{days}, test_last: 20260105}}"]


def launch(stage: str, words: Sequence[str], *, config: str = "debug") -> Outcome:
    """Run a stage on two ranks."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LFM4ADS_DEVICE": "cpu"}
    ranks = [sys.executable, "-m", "launch.ranks", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*ranks, "-m", f"launch.{stage}", f"configs/{stage}/{config}.yaml", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    lines = done.stderr.splitlines()
    return Outcome(
        done.returncode,
        tuple(line for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line)),
    )


def shortened(sentence: str, *, root: Path) -> str:
    """Return a sentence without this run's folders and digests."""
    for name, short in (("data", "dataset"), ("run", "run"), ("reps", "reps")):
        sentence = re.sub(rf"{re.escape(str(root))}/[\w-]+/{name}\b", f"<{short}>", sentence)
    return re.sub(r"\b[0-9a-f]{12}\b", "<version>", sentence)


def must(stage: str, *words: str, here: Path, good: Path) -> None:
    """Run a stage that has to end well."""
    done = launch(stage, [*common_words(stage, here=here, good=good), *words])
    if done != Outcome(0, ()):
        raise SystemExit(f"{stage} {' '.join(words)} ended with {done}")


def write_large_ids(dataset: Path) -> None:
    """Write a dataset with ids that no float holds."""
    write_tiny(dataset, days=5, rows=200)
    table = tiny_table(200)
    for row, key in enumerate((LARGE, LARGE + 1, 2**63 - 1)):
        table = with_value(table, "user_id", key, row=row)
    pq.write_table(table.slice(100), part_of(dataset))
    pq.write_table(table.slice(0, 100), part_of(dataset).with_name("part-00000.parquet"))


def prepare(root: Path) -> str:
    """Make the runs that some cases stand on; return what was said of ids above 2^53."""
    good = root / "good"
    write_large_ids(good / "data")
    must("pretrain", here=good, good=good)
    other = [f"output={root}/other/run", "seed=1"]
    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(must, stage, *words, here=good, good=good)
            for stage, words in (("dump", ()), ("pretrain", other))
        ]
        for one in made:
            one.result()
    shutil.copytree(good / "run", root / "unfinished" / "run")
    (root / "unfinished" / "run" / "report.json").unlink()
    shutil.copytree(good / "reps", root / "forged" / "reps")
    (first, *_) = sorted((root / "forged" / "reps").glob("upstream=*/as_of=*/manifest.json"))
    first.write_text(re.sub(r'"upstream": "\w+"', '"upstream": "f00d"', first.read_text()))
    parts = sorted(good.glob("reps/upstream=*/as_of=20260105/user/*.parquet"))
    keys = {key for part in parts for key in pq.read_table(part)["key"].to_pylist()}
    held = [str(key) for key in (LARGE, LARGE + 1, 2**63 - 1) if key in keys]
    return f"status 0; the representations hold the keys {', '.join(held)}"


def tried(case: Case, *, here: Path, root: Path) -> tuple[str, str]:
    """Run a case; return what it was told, and what is wrong with that, if anything."""
    good = root / "good"
    shutil.copytree(good / "data", here / "data")
    if case.fault is not None:
        case.fault(here / "data")
    words = common_words(case.stage, here=here, good=good)
    words += [word.format(here=here, good=good, root=root) for word in case.words]
    outcome = launch(case.stage, words, config=case.config)
    told = shortened(" / ".join(outcome.sentences), root=root)
    missing = [name for name in case.names if name not in told]
    right = outcome.status == 2 and len(outcome.sentences) == 1 and told.startswith("error: ")
    wrong = "" if right and not missing else f"status {outcome.status}, without {missing}: {told}"
    return told.removeprefix("error: "), wrong


def main() -> int:
    """Try everything; return the exit status."""
    cases = [*data_cases(), *config_cases(), *later_cases()]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        root = Path(folder).resolve()
        large = prepare(root)
        futures = [
            pool.submit(tried, case, here=root / f"case-{number}", root=root)
            for number, case in enumerate(cases)
        ]
        results = [future.result() for future in futures]
    print(PAGE, end="")
    for case, (told, _) in zip(cases, results, strict=True):
        print(f"| {case.name} | {case.stage} | {told.replace('|', '&#124;')} |")
    print(f"\nAccepted, for comparison: ids above 2^53 in an int64 column: {large}.")
    faults = [
        f"{case.name}: {wrong}" for case, (_, wrong) in zip(cases, results, strict=True) if wrong
    ]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults or large.count(",") != 2 else 0


if __name__ == "__main__":
    sys.exit(main())
