"""Programs are run until they once ended well, and told apart by their words and configs."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.core.program import Program, run_beside, run_steps

STAGE = """
import json, os, sys
from pathlib import Path

config, *words = sys.argv[1:]
told = dict(word.split("=") for word in words)
with Path("ran.txt").open("a") as ran:
    ran.write(f"{' '.join(words)} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('RANK')}\\n")
if told.get("killed"):
    os.kill(os.getpid(), int(told["killed"]))
if told.get("fail"):
    print("error: it is", told["fail"], file=sys.stderr)
    sys.exit(2)
names = Path(config).read_text().split()
arms = [Path(told["output"], arm, f"seed-{told['seed']}") for arm in names]
missing = [arm for arm in arms if not (arm / "report.json").exists()]
if arms and not missing:
    print(f"error: {told['output']} already holds every arm and seed; pass overwrite=true")
    sys.exit(2)
for arm in missing:
    arm.mkdir(parents=True)
    (arm / "report.json").write_text("{}")
    print("made", arm)
"""


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    """A folder with a stage of its own."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").write_text("")
    (tmp_path / "launch" / "toy.py").write_text(STAGE)
    (tmp_path / "toy.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "RANK"):
        monkeypatch.delenv(name, raising=False)


def step(name, *words):
    folder = Path("out/steps")
    return Program(
        name=name,
        stage="toy",
        config=Path("toy.yaml"),
        words=words,
        kind="step",
        mark=folder / f"{name}.txt",
        log=folder / f"{name}.log",
    )


def arms_of(seed, *words):
    output = Path("out/study")
    return replace(
        step(f"arms-{seed}", *words, f"output={output}", f"seed={seed}"),
        kind="arms",
        output=output,
        seed=seed,
    )


def ran():
    path = Path("ran.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_steps_run_once_in_order_and_go_on_after_a_failure():
    steps = [step("a", "x=1"), step("b", "fail=late"), step("c", "x=3")]
    with pytest.raises(UserError, match=r"^b \(it is late, see out/steps/b\.log\) failed; mend"):
        run_steps(steps)
    assert ran() == ["x=1 None None", "fail=late None None"]
    with pytest.raises(UserError, match="it is late"):
        run_steps(steps)
    assert ran() == ["fail=late None None"]
    run_steps([steps[0], step("b"), steps[2]])
    assert ran() == [" None None", "x=3 None None"]
    run_steps([steps[0], step("b"), steps[2]])
    assert ran() == []


def test_a_step_of_other_words_or_another_config_is_refused_before_any_runs():
    run_steps([step("b", "x=1")])
    ran()
    with pytest.raises(UserError, match=r"steps/b\.txt holds a run of other words or another conf"):
        run_steps([step("a"), step("b", "x=2")])
    Path("toy.yaml").write_text("arm")
    with pytest.raises(UserError, match=r"steps/b\.txt holds a run of other words or another conf"):
        run_steps([step("a"), step("b", "x=1")])
    assert ran() == []


def test_a_killed_step_is_not_done():
    a = step("a", "x=1")
    run_steps([a])
    a.mark.unlink()
    ran()
    run_steps([a])
    assert len(ran()) == 1


def test_arms_run_again_for_what_is_missing_and_nothing_left_is_done():
    Path("toy.yaml").write_text("one two")
    jobs = [arms_of(0), arms_of(1)]
    run_beside(jobs, parallel=2)
    assert sorted(ran()) == [f"output=out/study seed={seed} 1 None" for seed in (0, 1)]
    run_beside(jobs, parallel=2)
    assert ran() == []
    Path("out/study/two/seed-1/report.json").unlink()
    Path("out/study/two/seed-1").rmdir()
    run_beside(jobs, parallel=2)
    assert ran() == ["output=out/study seed=1 1 None"]
    assert jobs[1].log.read_text() == "made out/study/two/seed-1\n"
    jobs[0].mark.unlink()
    run_beside(jobs, parallel=1)
    assert "already holds every arm" in jobs[0].log.read_text()
    assert jobs[0].is_done()
    Path("toy.yaml").write_text("one two three")
    run_beside(jobs, parallel=1)
    assert jobs[0].log.read_text() == "made out/study/three/seed-0\n"


def test_the_failures_of_all_are_told_together(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    Path("toy.yaml").write_text("one")
    jobs = [arms_of(0, "fail=late"), arms_of(1), arms_of(2, "fail=early")]
    with pytest.raises(
        UserError, match=r"^2 of 3 runs failed: arms-0 \(it is late, .*; arms-2 \(it"
    ):
        run_beside(jobs, parallel=1)
    assert "output=out/study seed=1 5 None" in ran()
    assert [job.is_done() for job in jobs] == [False, True, False]


@pytest.mark.parametrize(("stage", "alone"), [("dump", False), ("prepare", True), ("report", True)])
def test_ranks_are_for_stages_that_have_them(stage, alone):
    arguments = replace(step("a"), stage=stage, ranks=2).arguments
    assert (arguments[:2] == ("-m", f"launch.{stage}")) == alone
    assert alone or arguments[:4] == ("-m", "launch.ranks", "--nproc-per-node", "2")


def test_a_program_that_does_not_start_says_so():
    missing = replace(step("a"), stage="nowhere")
    assert f"{Path(sys.executable).name}: No module named launch.nowhere" in missing.run()


def test_a_program_that_is_killed_says_by_what():
    assert step("a", "killed=9").run() == "a (killed by SIGKILL, see out/steps/a.log)"
