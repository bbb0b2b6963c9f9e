"""A schema that contradicts itself is refused when it is read, in one sentence."""

import pytest
import yaml

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import load_schema
from tests.worlds import SCHEMA


def write(folder, changes=None):
    """Write the tiny schema with values replaced at dotted paths."""
    raw = yaml.safe_load(SCHEMA)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        node = raw
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    (folder / "schema.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder


def test_it_is_typed_and_keeps_its_order(tmp_path):
    schema = load_schema(write(tmp_path))
    assert schema.domains == ("content", "ads")
    assert schema.tables["user"].rows == 64
    sparse = ["user_id", "recent", "item_id", "tags", "hour"]
    assert schema.select(sparse=True) == sparse
    assert schema.select(sparse=False) == ["age", "taste", "price", "picture"]
    assert schema.select(side="item") == ["item_id", "tags", "price", "picture"]
    assert schema.select(side="item", sparse=True) == ["item_id", "tags"]
    assert schema.select(kind="number") == ["age", "price"]
    assert schema.select(side="context", kind="number") == []
    assert schema.select() == list(schema.features)
    assert schema.binary_tasks == ["click", "long_view", "conversion"]
    (tmp_path / "schema.yaml").write_text(config_yaml(schema))
    assert load_schema(tmp_path) == schema


def test_names_of_columns_and_real_tasks(tmp_path):
    changes = {"features.age.column": "years", "tasks.click.kind": "real"}
    schema = load_schema(write(tmp_path, changes))
    assert schema.column("age") == "years"
    assert schema.column("price") == "price"
    assert schema.binary_tasks == ["long_view", "conversion"]


REFUSALS = {
    "version": ({"version": 2}, "schema version 2 is not supported, this program reads 1"),
    "table without rows": ({"tables.user.rows": 0}, "table rows must be at least 1, got 0"),
    "table dim": ({"tables.user.dim": 6}, "multiple of 4 .an FBGEMM rule., got 6"),
    "table dim 0": ({"tables.user.dim": 0}, "multiple of 4 .an FBGEMM rule., got 0"),
    "no such table": (
        {"features.hour.table": "hours"},
        "feature hour names table hours, which tables does not list",
    ),
    "id without table": ({"features.hour.table": None}, "a feature of kind id needs a table"),
    "ids without table": ({"features.tags.table": None}, "a feature of kind ids needs a table"),
    "sequence without table": (
        {"features.recent.table": None},
        "a feature of kind sequence needs a table",
    ),
    "vector without length": ({"features.picture.length": None}, "needs a positive length"),
    "max_length": ({"features.recent.max_length": -1}, "max_length must be at least 0, got -1"),
    "times of a bag": (
        {"features.tags.times": "recent_times"},
        "only a sequence has times, not a feature of kind ids",
    ),
    "std": ({"features.age.std": 0}, "std must be positive, got 0"),
    "kind": ({"features.age.kind": "text"}, "text"),
    "side": ({"features.age.side": "advertiser"}, "advertiser"),
    "task kind": ({"tasks.click.kind": "ordinal"}, "ordinal"),
    "no duration": ({"tasks.conversion.duration": None}, "needs a duration column"),
    "a duration": ({"tasks.click.duration": "delay"}, "and only that, needs a duration column"),
    "task domain": (
        {"tasks.click.domains": ["ads", "games"]},
        r"task click names unknown domains \['games'\]",
    ),
    "task scenario": ({"tasks.click.scenarios": [3]}, r"click names a scenario outside 0\.\.2"),
    "task scenario below": ({"tasks.click.scenarios": [-1]}, r"a scenario outside 0\.\.2"),
    "leak of a label": (
        {"features.age.column": "long_view"},
        "feature age reads outcome column long_view: a leak",
    ),
    "leak by name": ({"tasks.click.label": "age"}, "feature age reads outcome column age: a leak"),
    "leak of a duration": (
        {"features.price.column": "conversion_delay_ms"},
        "feature price reads outcome column conversion_delay_ms: a leak",
    ),
    "leak of times": (
        {"features.recent.times": "conversion_delay_ms"},
        "feature recent reads outcome column conversion_delay_ms: a leak",
    ),
    "unknown key": (
        {"features.age.standard": 1},
        "no key features.age.standard; the keys there are kind, side",
    ),
    "missing key": ({"user": None}, "user"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path, name):
    changes, pattern = REFUSALS[name]
    write(tmp_path, changes)
    with pytest.raises(UserError, match=pattern) as caught:
        load_schema(tmp_path)
    assert str(tmp_path / "schema.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_one(tmp_path):
    with pytest.raises(UserError, match=r"schema.yaml does not exist; run 'make prepare' or point"):
        load_schema(tmp_path)
