import shlex

import pytest

from lfm4ads.analysis import sources
from lfm4ads.core.errors import UserError
from lfm4ads.data.runs import Part, Run


def runs_of(folder, configs, **report):
    """One run a config, of arm a."""
    runs = []
    for seed, config in enumerate(configs):
        path = folder / f"seed-{seed}"
        path.mkdir(parents=True)
        if config:
            (path / "config.yaml").write_text(config)
        told = {"arm": "a", "seed": seed, "stage": "retrieve"} | report
        part = Part(folder=path, report=told, scenarios=("3",))
        runs.append(Run(arm="a", seed=seed, parts=(part,)))
    return runs


def test_a_command_makes_one_run_again_from_its_own_config(tmp_path):
    (run,) = runs_of(tmp_path / "with space", ["x: 1\n"])
    words = shlex.split(sources.run_command(run.parts[0]))
    config = str(tmp_path / "with space" / "seed-0" / "config.yaml")
    assert words == ["python", "-m", "launch.retrieve", config, "output=out/again/runs-3"]


def test_a_run_without_a_config_is_named(tmp_path):
    (run,) = runs_of(tmp_path, [None])
    with pytest.raises(UserError, match="a/seed-0 3 cannot be made again; rerun retrieve"):
        sources.run_command(run.parts[0])


def test_configs_that_differ_in_the_seed_alone_are_shown_once(tmp_path):
    configs = [f"x: {x}\nseeds:\n- {seed}\n" for seed, x in enumerate((1, 1, 2))]
    shown = sources.run_sources(runs_of(tmp_path, configs, command="as it was"))
    assert [one.title for one in shown] == [
        "a/seed-0 3, but for the seed also a/seed-1 3",
        "a/seed-2 3",
    ]
    assert shown[0].config == configs[0]
    assert shown[0].command.endswith("\n# it was run as: as it was")


def test_of_too_many_configs_each_arm_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_SOURCES", 2)
    (shown,) = sources.run_sources(runs_of(tmp_path, ["x: 1\n", "x: 2\n", "x: 3\n"]))
    assert shown.title == "a/seed-0 3, the first of the arm's, before a/seed-1 3, a/seed-2 3"
