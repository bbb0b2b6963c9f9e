"""Specs and headers that make no sense are refused."""

from dataclasses import replace

import pytest

from lfm4ads.data.manifest import (
    Header,
    RepSpec,
)
from tests.unit.data.states import (
    SPECS,
    header,
)

DAY1, DAY2, DAY3 = 20220408, 20220409, 20220411


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"name": "UR"}, "must be of a-z"),
        ({"dim": 0}, "positive dim"),
        ({"half_life": 0.0}, "half_life 0.0"),
        ({"kind": "latest"}, "half_life"),
    ],
)
def test_specs_refuse_nonsense(change, pattern):
    with pytest.raises(ValueError, match=pattern):
        replace(SPECS[1], **change)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"upstream": "a/b"}, "must be of letters"),
        ({"as_of": 20220431}, "day"),
        ({"trained_through": DAY2}, "a leak"),
        (
            {
                "representations": (
                    SPECS[0],
                    RepSpec(name="ur_time", side="user", kind="decayed", dim=1, read="sum"),
                )
            },
            r"share columns \['ur_time'\]",
        ),
    ],
)
def test_headers_refuse_nonsense(change, pattern):
    with pytest.raises(ValueError, match=pattern):
        replace(header(DAY1), **change)
    assert isinstance(header(DAY1), Header)
