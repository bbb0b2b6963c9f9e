"""A thread runs ahead, and nothing of it is left behind."""

import threading

import pytest

from lfm4ads.data.prefetch import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def _alone():
    assert threads() == [], "an earlier test left one"


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_the_order_stays(depth, count):
    assert list(prefetch(range(count), depth=depth)) == list(range(count))
    assert threads() == []


def test_an_error_comes_after_what_was_made_before_it():
    def items():
        yield from (1, 2, None)
        raise KeyError("torn file")

    seen = []
    with pytest.raises(KeyError, match="torn file"):
        seen.extend(iter_into(seen, prefetch(items(), depth=2)))
    assert seen == [1, 2, None]
    assert threads() == []


def iter_into(seen, items):
    for item in items:
        seen.append(item)
    return []


def long(made):
    """Not endless, so that a thread that fails to stop does end."""
    for number in range(100_000):
        made.append(number)
        yield number


def test_leaving_early_stops_the_thread():
    made = []
    items = prefetch(long(made), depth=2)
    assert [next(items), next(items)] == [0, 1]
    assert len(threads()) == 1
    items.close()
    assert threads() == []
    stopped_at = len(made)
    assert stopped_at <= 2 + 2 + 1, "two taken, two waiting, one in the hand of the thread"
    assert len(made) == stopped_at


def test_an_error_of_the_consumer_stops_the_thread():
    def consume():
        for item in prefetch(long([]), depth=1):
            if item == 3:
                raise ValueError("the model diverged")

    with pytest.raises(ValueError, match="diverged"):
        consume()
    assert threads() == []


def test_it_runs_ahead_but_only_so_far():
    ahead, too_far = threading.Event(), threading.Event()

    def items():
        for number in range(50):
            if number == 3:
                ahead.set()
            if number == 4:
                too_far.set()
            yield number

    running = prefetch(items(), depth=2)
    assert next(running) == 0
    assert ahead.wait(10), "one taken, two waiting and one in the hand of the thread"
    assert not too_far.wait(0.05)
    assert list(running) == list(range(1, 50))
    assert too_far.is_set()
