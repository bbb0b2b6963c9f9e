"""The history keeps the last clicks of each user, within bounds."""

import numpy as np

from data.adsworld.history import History, HistoryConfig, empty_history, extend_history


def clicks(users, times):
    users, times = np.array(users), np.array(times)
    return History(user=users, item=times * 10, index=times, category=times % 3, time=times)


def test_last_clicks_of_each_user_in_order():
    config = HistoryConfig(length=2)
    history = extend_history(
        empty_history(), config=config, clicks=clicks([5, 1, 5, 5], [1, 2, 3, 4]), oldest_time=0
    )
    history = extend_history(history, config=config, clicks=clicks([1, 9], [6, 7]), oldest_time=0)
    assert history.user.tolist() == [1, 1, 5, 5, 9]
    assert history.time.tolist() == [2, 6, 3, 4, 7]
    assert history.item.tolist() == [20, 60, 30, 40, 70]
    assert history.index.tolist() == [2, 6, 3, 4, 7]
    starts, lengths = history.runs(np.array([0, 1, 5, 9]))
    assert starts.tolist()[1:] == [0, 2, 4]
    assert lengths.tolist() == [0, 2, 2, 1]


def test_old_clicks_are_forgotten():
    config = HistoryConfig(length=5)
    history = extend_history(
        empty_history(), config=config, clicks=clicks([1, 2], [10, 20]), oldest_time=0
    )
    history = extend_history(history, config=config, clicks=clicks([3], [30]), oldest_time=15)
    assert history.user.tolist() == [2, 3]
