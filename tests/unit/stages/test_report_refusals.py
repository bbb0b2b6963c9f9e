import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.stages.report import Config, run
from tests.unit.analysis.planted import plant

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture
def small(tmp_path):
    return plant(tmp_path, num_rows=300, seeds=(0,))


def test_other_ranks_do_nothing(small, tmp_path):
    ranks = Ranks(rank=1, world=2, device=torch.device("cpu"))
    run(Config(runs=(small.runs,), output=tmp_path / "out"), ranks)
    assert not (tmp_path / "out").exists()


def edit_report(folder: Path, **fields):
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_predictions(folder: Path, change):
    for split in ("valid", "test"):
        path = folder / "predictions" / f"split={split}" / "part-0.parquet"
        pq.write_table(change(pq.ParquetFile(path).read()), path)


def replace(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, values(table))


def unfinished(planted):
    (planted.runs / "adapter" / "seed-0" / "report.json").unlink()


def other_rows(planted):
    edit_predictions(planted.runs / "adapter" / "seed-0", lambda table: table.slice(1))


def other_labels(planted):
    flip = replace(
        "label_click", lambda table: pc.subtract(pa.scalar(1, pa.int8()), table["label_click"])
    )
    edit_predictions(planted.runs / "adapter" / "seed-0", flip)


def nan_logit(planted):
    nan = replace("logit_click", lambda table: pa.array(np.full(len(table), np.nan, np.float32)))
    edit_predictions(planted.runs / "adapter" / "seed-0", nan)


def no_row_id(planted):
    edit_predictions(planted.runs / "adapter" / "seed-0", lambda table: table.drop_columns("user"))
    (planted.runs / "adapter/seed-0/predictions/split=valid/part-1.parquet").unlink()


def torn_parquet(planted):
    path = planted.runs / "adapter/seed-0/predictions/split=test/part-1.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def no_predictions(planted):
    shutil.rmtree(planted.runs / "adapter/seed-0/predictions/split=test")


def other_dataset(planted):
    edit_report(planted.runs / "same" / "seed-0", dataset="moon")


def other_upstream(planted):
    edit_report(planted.runs / "same" / "seed-0", upstream="lfm-0002")


def unpaired_seed(planted):
    (planted.runs / "same" / "seed-0").rename(planted.runs / "same" / "seed-5")
    edit_report(planted.runs / "same" / "seed-5", seed=5)


def old_schema(planted):
    edit_report(planted.runs / "same" / "seed-0", schema_version=0)


def called_oracle(planted):
    edit_report(planted.runs / "same" / "seed-0", arm="oracle")


def twice(planted):
    edit_report(planted.runs / "same" / "seed-0", arm="adapter")


def no_oracle_rows(planted):
    path = planted.oracle / "day=20250102" / "part-0.parquet"
    pq.write_table(pq.ParquetFile(path).read().slice(5), path)


def no_oracle(planted):
    shutil.rmtree(planted.oracle)


def no_curves(planted):
    (planted.pretrain / "metrics.jsonl").unlink()


def torn_curves(planted):
    path = planted.runs / "same" / "seed-0" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            unfinished,
            r"adapter/seed-0/report.json does not exist, so that run is unfinished",
        ),
        (
            other_rows,
            r"adapter/seed-0 scored other valid rows than vanilla/seed-0 \(299 and 300, 299 in",
        ),
        (
            other_labels,
            r"adapter/seed-0 and vanilla/seed-0 have different label_click for the same valid",
        ),
        (
            nan_logit,
            r"predictions of adapter/seed-0 \(valid\) have logit_click nan at row_id \d+",
        ),
        (
            no_row_id,
            r"predictions of adapter/seed-0 \(valid\) have no column user; rerun transfer",
        ),
        (
            torn_parquet,
            r"split=test/part-1.parquet is not a readable Parquet file .*; rerun adapter/seed-0",
        ),
        (
            no_predictions,
            r"split=test holds no part-\*.parquet; rerun transfer for adapter/seed-0",
        ),
        (
            other_dataset,
            r"same/seed-0 has dataset moon but .*adapter/seed-0 has planted-world; report",
        ),
        (
            other_upstream,
            r"same/seed-0 has upstream lfm-0002 but .*adapter/seed-0 has lfm-0001; report",
        ),
        (
            unpaired_seed,
            r"same/seed-5 has no vanilla/seed-5 to be paired with; train vanilla with seed 5",
        ),
        (
            old_schema,
            r"same/seed-0/report.json has schema_version 0, this program reads 1; rerun",
        ),
        (
            called_oracle,
            r"same/seed-0/report.json calls its arm oracle, a name kept for the truth",
        ),
        (
            twice,
            r"same/seed-0 and .*adapter/seed-0 both hold adapter/seed-0; list only one",
        ),
        (
            no_oracle_rows,
            r"oracle has no probability_click for 5 test rows \(first row_id \d+\); pass",
        ),
        (
            no_oracle,
            r"oracle folder .*oracle holds no day=\*/part-\*.parquet; pass",
        ),
        (
            no_curves,
            r"upstream/metrics.jsonl does not exist; pass the run folder of pretrain or leave",
        ),
        (
            torn_curves,
            r"same/seed-0/metrics.jsonl line 22 is not valid JSON .*; delete that line",
        ),
    ],
)
def test_damaged_input_is_refused_in_one_sentence(damage, sentence, small, tmp_path):
    damage(small)
    output = tmp_path / "out"
    config = Config(runs=(small.runs,), output=output, oracle=small.oracle, pretrain=small.pretrain)
    with pytest.raises(UserError, match=sentence) as caught:
        run(config, ALONE)
    assert "\n" not in str(caught.value)
    assert not (output / "report.json").exists()


def test_wrong_words_are_refused(small, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"no runs were given; pass runs=\["):
        run(Config(runs=(), output=output), ALONE)
    with pytest.raises(UserError, match=r"moon does not exist; run 'make transfer' first"):
        run(Config(runs=(tmp_path / "moon",), output=output), ALONE)
    with pytest.raises(UserError, match=r"holds no <arm>/seed-<n> folder; pass the output folder"):
        run(Config(runs=(small.oracle,), output=output), ALONE)
    with pytest.raises(
        UserError, match=r"arm sum is not among the runs \(adapter, same, vanilla\)"
    ):
        run(Config(runs=(small.runs,), output=output, baseline="sum"), ALONE)
    with pytest.raises(UserError, match=r"both hold adapter/seed-0; list only one of them in runs"):
        run(Config(runs=(small.runs, small.runs), output=output), ALONE)
    with pytest.raises(ValueError, match="min_positives must be at least 2, got 1"):
        Config(runs=(small.runs,), output=output, min_positives=1)


def test_finished_output_is_kept_unless_told(tmp_path):
    small = plant(tmp_path, num_rows=200, seeds=(0,), arms={"vanilla": 0.4})
    output = tmp_path / "out"
    run(Config(runs=(small.runs,), output=output), ALONE)
    (output / "notes.txt").write_text("mine")
    (output / "figures" / "stale.svg").write_text("stale")
    with pytest.raises(UserError, match=r"out already holds a finished run; .* overwrite=true"):
        run(Config(runs=(small.runs,), output=output), ALONE)
    run(Config(runs=(small.runs,), output=output, overwrite=True, title="Second"), ALONE)
    assert "<title>Second</title>" in (output / "report.html").read_text()
    assert (output / "notes.txt").read_text() == "mine"  # only the report's own files go
    assert not (output / "figures" / "stale.svg").exists()


def test_another_stage_s_folder_is_never_overwritten(small):
    victim = small.runs / "vanilla" / "seed-0"
    before = (victim / "report.json").read_text()
    with pytest.raises(UserError, match="holds a finished run of transfer; choose another output"):
        run(Config(runs=(small.runs,), output=victim, overwrite=True), ALONE)
    assert (victim / "report.json").read_text() == before
