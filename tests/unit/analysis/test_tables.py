import pytest

from lfm4ads.analysis.tables import arms_table

DASH = "\N{EN DASH}"


def mean(arm, scenario, auc, task="click", split="test"):
    place = {"arm": arm, "task": task, "scenario": scenario, "split": split}
    of_mean = {"scenarios": ["2", "10"]} if scenario == "mean" else {}
    return place | of_mean | {"auc": auc, "num_seeds": 3, "rows": 1_234_567, "positives": 89}


def lift(arm, low, high, scenario="mean"):
    place = {"arm": arm, "task": "click", "scenario": scenario}
    return place | {"delta_auc": (low + high) / 2, "low": low, "high": high}


@pytest.fixture
def report():
    aucs = {"vanilla": 0.6, "better": 0.7, "a-long-arm": None}
    return {
        "means": [
            mean(arm, where, auc if where == "mean" else 0.5)
            for where in ("all", "mean", "10", "2")
            for arm, auc in aucs.items()
        ]
        + [mean("vanilla", "2", 0.1, split="valid")],
        "lifts": [
            lift("better", 0.05, 0.15),
            lift("a-long-arm", -0.3, 0.1),
            lift("a-long-arm", 7, 8, scenario="2"),
        ],
        "gap_closed": [],
        "min_positives": 20,
    }


def test_a_row_an_arm_with_its_scenarios_mean_lift_and_mark(report):
    lines = arms_table(report).splitlines()
    assert lines[0].split() == ["arm", "task", "2", "10", "mean", "lift", "95", "%", "interval"]
    assert [line.split() for line in lines[2:5]] == [
        ["vanilla", "click", "0.5000", "0.5000", "0.6000", DASH, DASH],
        ["better", "click", "0.5000", "0.5000", "0.7000", "+0.1000", "[+0.0500,", "+0.1500]", "*"],
        ["a-long-arm", "click", "0.5000", "0.5000", DASH, "-0.1000", "[-0.3000,", "+0.1000]"],
    ]
    assert len(lines) == 2 + 3 + 1 + 2
    assert lines[-2] == (
        "click: mean over 2 scenarios (2, 10 with at least 20 positives), 3 seeds,"
        " 1,234,567 test rows, 89 positives"
    )
    assert "0.1000 " not in lines[2]


def test_an_interval_below_zero_is_marked_too(report):
    report["lifts"] = [lift("better", -0.2, -0.1)]
    assert arms_table(report).splitlines()[3].endswith("*")


def test_every_task_has_rows_and_the_oracle_its_gaps(report):
    report["means"] += [mean("vanilla", where, 0.9, task="long_view") for where in ("mean", "all")]
    report["gap_closed"] = [
        {
            "arm": "better",
            "task": "click",
            "scenario": "mean",
            "share": 0.5,
            "low": 0.4,
            "high": 0.6,
        }
    ]
    lines = arms_table(report).splitlines()
    assert lines[3].endswith(
        "*       0.500  [0.4000, 0.6000]".replace("0.4000, 0.6000", "0.400, 0.600")
    )
    assert lines[5].split()[:3] == ["vanilla", "long", "view"]


def test_too_many_scenarios_leave_the_mean(report):
    report["means"] += [mean("vanilla", str(number), 0.5) for number in range(20, 30)]
    table = arms_table(report)
    assert table.splitlines()[0].split()[:4] == ["arm", "task", "mean", "lift"]
    assert "12 scenarios are there too" in table
