"""Gather the batches of some seconds into one element, so that a stream merges tables and not rows."""

import apache_beam as beam
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterAny,
    AfterCount,
    AfterProcessingTime,
    Repeatedly,
)
from apache_beam.transforms.window import GlobalWindows, TimestampCombiner

from transforms.core import arrow_coder  # noqa: F401 (what is gathered is encoded)

MOST_BATCHES = 64
"""Batches of a group: a stream that keeps up has fewer in some seconds, and a backlog does not pile up in the
runner."""
MOST_ROWS = 2048
"""Rows that a batch should have at most before it is gathered."""


class Gather(beam.PTransform):
    """(key, RecordBatch) -> (key, RecordBatches).

    A group is emitted `seconds` after its first batch, or once it has MOST_BATCHES.

    Windows become global. Batches should be small (MOST_ROWS), so that the runner's memory holds many groups.

    The runner keeps gathered batches in its checkpoints. A group has the timestamp of its earliest batch,
    which also holds the watermark back: nothing is late downstream that was not late before. Keys must be few
    and come again, because each leaves a little state forever.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds

    def expand(self, keyed: beam.PCollection) -> beam.PCollection:
        panes = beam.WindowInto(
            GlobalWindows(),
            trigger=Repeatedly(AfterAny(AfterProcessingTime(self.seconds), AfterCount(MOST_BATCHES))),
            accumulation_mode=AccumulationMode.DISCARDING,
            timestamp_combiner=TimestampCombiner.OUTPUT_AT_EARLIEST,
        )
        return keyed | "Panes" >> panes | beam.GroupByKey()
