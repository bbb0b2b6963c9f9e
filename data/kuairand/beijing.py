"""Days and hours of Beijing time, KuaiRand's clock, which has no daylight saving."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BEIJING_MS = 8 * HOUR_MS

FIRST_DAY = np.datetime64("2022-04-08")
"""The log's first day."""
REFERENCE_DAY = np.datetime64("2022-04-25")
"""Downstream training starts here; numbers' moments are fitted on what is earlier."""
REFERENCE_DATE = 20220425
HISTORY_DAYS = 17


def day_start_ms(day: np.datetime64) -> int:
    """Return the Unix milliseconds at which a day begins in Beijing."""
    return int(day.astype("datetime64[ms]").astype(np.int64)) - BEIJING_MS


def dates(times_ms: Ints) -> Ints:
    """Return each time's day as YYYYMMDD.

    The log's own ``date`` is when a row was logged, up to three hours after ``time_ms``: rows dated
    26 April happened before rows dated 25 April, and some events are logged under both dates. Days
    must follow the time for "earlier day" to mean "earlier".
    """
    days = ((times_ms + BEIJING_MS) // DAY_MS).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    years = days.astype("datetime64[Y]")
    year = years.astype(np.int64) + 1970
    month = (months - years.astype("datetime64[M]")).astype(np.int64) + 1
    return (
        year * 10_000 + month * 100 + (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    )


def hours(times_ms: Ints) -> Ints:
    """Return the hour of the day, 0..23."""
    return (times_ms + BEIJING_MS) // HOUR_MS % 24


def weekdays(times_ms: Ints) -> Ints:
    """Return the day of the week, 0 = Monday."""
    return ((times_ms + BEIJING_MS) // DAY_MS + 3) % 7  # 1 January 1970 was a Thursday
