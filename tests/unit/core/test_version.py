"""Short names of what a run was made of."""

import re
from dataclasses import dataclass

from lfm4ads.core.version import digest, git_commit


@dataclass(frozen=True)
class Words:
    rate: float = 0.1
    name: str = "a"


def test_a_digest_changes_with_every_part():
    parts = [
        digest(Words()),
        digest(Words(rate=0.2)),
        digest(Words(name="b")),
        digest(Words(), "text"),
        digest("text", Words()),
        digest("ab", "c"),
        digest("a", "bc"),
        digest("abc"),
    ]
    assert len(set(parts)) == len(parts)
    assert all(re.fullmatch("[0-9a-f]{12}", part) for part in parts)


def test_a_digest_is_the_same_in_every_run():
    assert digest(Words()) == digest(Words())
    assert digest("abc") == "ba7816bf8f01", "the start of SHA-256 of abc, FIPS 180-2"


def test_the_commit_is_git_s_own_name_or_empty():
    assert re.fullmatch("([0-9a-f]{12,40}(-dirty)?)?", git_commit())
