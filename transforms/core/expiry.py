"""Expiry: which rows lie in days of an output that have expired, so that none of them may be written.

The maintenance ledger of an output says, for each folder, the first day that has not expired. A message whose
row would lie before it has the fate `expired`: it is counted, and written nowhere. Free of Beam.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import REPORTS, Table

Bools = NDArray[np.bool_]
CLOSED_HOURS = 2
"""Hours after the first day of reports begins in which no new report may lie: LOOKBACK_HOURS of history."""


class RowsByExpiry(NamedTuple):
    """The rows of a batch that may be written, and how many may not."""

    kept: pa.RecordBatch
    expired: int


@dataclass(frozen=True)
class Expiry:
    """What has expired in an output.

    `before`: by folder, as the ledger has it, the first day (UTC) that has not. Rows of folders that it does
    not name do not expire. `untimed`: the tables of which rows without a time have expired. A message does
    not say when its row was first written, so new rows without a time are written all the same.
    """

    before: Mapping[str, date] = field(default_factory=dict)
    untimed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.before or self.untimed)

    def has_expired(self, folder: str, day: str) -> bool:
        """Whether a day (YYYY-MM-DD) of a folder has expired; what is no day has not."""
        before = self.before.get(folder)
        return before is not None and day < before.isoformat()

    def find_start(self, table: Table) -> datetime | None:
        """The first moment at which a new row of a table may lie; None if nothing of it has expired.

        Of reports it is CLOSED_HOURS after the first day begins: a late report changes the flags of hours
        whose baselines reach that far back, and the reports there are gone.
        """
        day = self.before.get(table.name)
        if day is None:
            return None
        start = datetime.combine(day, time(), UTC)
        return start + timedelta(hours=CLOSED_HOURS) if table is REPORTS else start

    def find_expired(self, table: Table, rows: pa.RecordBatch) -> Bools:
        """bool[n]: which new rows of a table lie in what has expired, by the column `Table.time`."""
        start = self.find_start(table)
        if start is None or not table.time:
            return np.zeros(rows.num_rows, np.bool_)
        times = rows[table.time]
        return np.asarray(pc.fill_null(pc.less(times, pa.scalar(start, times.type)), False))

    def split(self, table: Table, rows: pa.RecordBatch) -> RowsByExpiry:
        """The new rows of a table that may be written, and the number of the others."""
        expired = self.find_expired(table, rows)
        count = int(np.count_nonzero(expired))
        return RowsByExpiry(rows.filter(pa.array(~expired)) if count else rows, count)


NOTHING = Expiry()
"""Of an output whose rows have never expired."""
