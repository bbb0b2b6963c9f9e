"""Ordinal pseudo-times for exposures of which only the order is known."""

import numpy as np
import numpy.typing as npt

from data.kuairand.beijing import DAY_MS, FIRST_DAY, HISTORY_DAYS, day_start_ms

Ints = npt.NDArray[np.int64]


def spread_over_days(*, users: Ints, positions: Ints) -> Ints:
    """Spread each user's exposures, in order, evenly over 8-24 April; return milliseconds.

    The last exposure falls on 24 April, the others at equal steps back to 8 April. Inside a day a
    user's times are evenly spaced and strictly increasing. They order one user's events and nothing
    else: no hour, no gap and no comparison between users is real.
    """
    order = np.lexsort((positions, users))
    is_first = np.diff(users[order], prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(users)))
    from_last = np.repeat(starts + counts, counts) - 1 - np.arange(len(users))
    days = HISTORY_DAYS - 1 - from_last * HISTORY_DAYS // np.repeat(counts, counts)
    return _place(days=days, is_first=is_first, order=order)


def _place(*, days: Ints, is_first: npt.NDArray[np.bool_], order: Ints) -> Ints:
    """Put the m exposures a user has in a day at 1/(m+1), 2/(m+1), ... of it."""
    starts = np.flatnonzero(is_first | (np.diff(days, prepend=-1) != 0))
    counts = np.diff(np.append(starts, len(days)))
    nth = np.arange(len(days)) - np.repeat(starts, counts) + 1
    inside_ms = nth * DAY_MS // (np.repeat(counts, counts) + 1)
    times_ms = np.empty(len(days), dtype=np.int64)
    times_ms[order] = day_start_ms(FIRST_DAY) + days * DAY_MS + inside_ms
    return times_ms
