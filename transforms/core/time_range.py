"""Spans of time, and the rows within them. Free of Beam."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Span:
    """From `start` up to but not including `end`, aware datetimes; None is open."""

    start: datetime | None = None
    end: datetime | None = None

    @property
    def everything(self) -> bool:
        """Whether the span has no bounds."""
        return self.start is None and self.end is None

    def overlaps(self, other: "Span") -> bool:
        """Whether a moment can be in both."""
        return (self.start is None or other.end is None or self.start < other.end) and (
            other.start is None or self.end is None or other.start < self.end
        )

    def contains(self, times: pa.Array) -> np.ndarray:
        """bool[n]: which times (timestamp[us, UTC]) are inside; a null time is."""
        inside = np.ones(len(times), dtype=bool)
        if self.start is not None:
            inside &= np.asarray(
                pc.fill_null(pc.greater_equal(times, pa.scalar(self.start, times.type)), True)
            )
        if self.end is not None:
            inside &= np.asarray(pc.fill_null(pc.less(times, pa.scalar(self.end, times.type)), True))
        return inside


def keep_within(batch: pa.RecordBatch, span: Span, column: str) -> list[pa.RecordBatch]:
    """The rows of the batch whose `column` is within the span, as one batch; no batch if there are none."""
    kept = batch.filter(pa.array(span.contains(batch[column])))
    return [kept] if kept.num_rows else []
