"""The rules of history about time: which reports feed a baseline, and which hours a report affects.

Batch, stream, recall and `backfill --replace` use them from here, so that each is decided once.

- A report of minute m (floor of recorded_at / 60 s) is compared with its agent's reports of the minutes
  [m - 62, m - 2).
- The newest two minutes are left out, because reports of them may still be on their way.
- A *late* report, received more than 60 s after it was recorded, feeds no baseline, for the same reason.

So a baseline depends on which reports there are, never on the order in which they came.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.core.time_units import MINUTE_US, SECOND_US

HOUR_MINUTES = 60
HOUR_SECONDS = 3600

LOOKBACK_MINUTES, GAP_MINUTES = 62, 2
"""The window of minute m is [m - LOOKBACK_MINUTES, m - GAP_MINUTES)."""
LOOKBACK_HOURS = -(-LOOKBACK_MINUTES // HOUR_MINUTES)
"""How many hours before its own a report's baseline can begin, and how many after its own it can affect."""
LATE_SECONDS = 60
"""A report that was received longer after its recorded_at is late."""
MAX_FUTURE_SECONDS = 60 * GAP_MINUTES - LATE_SECONDS
"""How far ahead of its message a report may be recorded in a stream.

What feeds the window of minute m was recorded before minute m - 2 and received within a minute, so before
minute m - 1. A report of minute m that is recorded at most 60 s ahead is received no earlier, so what its
baseline needs is there."""


def mark_late(reports: pa.Table | pa.RecordBatch) -> NDArray[np.bool_]:
    """bool[n]: which reports are late and so feed no baseline. A report without received_at is not late.

    `reports` has recorded_at and received_at (timestamp[us]).
    """
    received, recorded = (reports[name].cast(pa.int64()) for name in ("received_at", "recorded_at"))
    late = pc.greater(pc.subtract(received, recorded), LATE_SECONDS * SECOND_US)
    return np.asarray(pc.fill_null(late, False))


def find_minutes(reports: pa.Table | pa.RecordBatch) -> NDArray[np.int64]:
    """int64[n]: the minute (since 1970) in which each report was recorded."""
    return reports["recorded_at"].cast(pa.int64()).to_numpy() // MINUTE_US


def find_affected_hours(reports: pa.RecordBatch) -> set[int]:
    """The hours (since 1970) whose rows may change because of these reports.

    A report of minute m is in the aggregates of its own hour and in baselines up to m + LOOKBACK_MINUTES.
    So every hour from that of m to that of m + LOOKBACK_MINUTES is affected: three hours if m is 58 or 59
    minutes past the hour.
    """
    minutes = np.unique(find_minutes(reports))
    first, last = minutes // HOUR_MINUTES, (minutes + LOOKBACK_MINUTES) // HOUR_MINUTES
    return {
        hour
        for ahead in range(LOOKBACK_HOURS + 1)
        for hour in np.unique(np.minimum(first + ahead, last)).tolist()
    }
