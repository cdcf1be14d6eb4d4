"""Gather: what arrives within some seconds becomes one element, so that a stream writes and merges tables and not single rows."""

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

COUNT = 64
"""Batches of a group: a stream that keeps up has fewer in some seconds, and a backlog is not heaped up in the runner."""
PORTION = 2048
"""Rows that a batch should have at most before it is gathered."""


class Gather(beam.PTransform):
    """(key, RecordBatch) -> (key, RecordBatches), a group at most `seconds` after its first batch came, or once there are COUNT.

    Windows become global. Batches should be small (PORTION), so that a group of COUNT fits into the runner's memory many times.

    The runner keeps what is gathered in its checkpoints. A group is stamped with its earliest batch, which also holds the watermark
    back: nothing is late downstream that was not late before. Keys must be few and come again: each leaves a little state for good.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds

    def expand(self, keyed: beam.PCollection) -> beam.PCollection:
        panes = beam.WindowInto(
            GlobalWindows(),
            trigger=Repeatedly(AfterAny(AfterProcessingTime(self.seconds), AfterCount(COUNT))),
            accumulation_mode=AccumulationMode.DISCARDING,
            timestamp_combiner=TimestampCombiner.OUTPUT_AT_EARLIEST,
        )
        return keyed | "Panes" >> panes | beam.GroupByKey()
