"""The outputs of history, which are the same for a batch and a stream: reports, duplicates, quarantine."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa

from schemas.readers.verdicts import Rejection
from transforms.validation.quarantine_rows import quarantine_failed

TAGS = ("duplicates", "quarantine")
"""The outputs beside the main one, `reports`."""
OUTPUT_ROWS = 1 << 16
"""Most rows of a batch that leaves history: large enough to work on in columns, small enough to pass on."""

Fault = tuple[pa.RecordBatch, Rejection]
"""A report at which history raises, as a batch of one row, and why."""


def quarantine_faults(faults: Iterable[Fault]) -> Iterator[beam.pvalue.TaggedOutput]:
    """QUARANTINE rows of the reports at which history raises.

    A report that is stored already stays as it is.
    """
    for row, why in faults:
        if not row["context"][0].as_py():
            yield beam.pvalue.TaggedOutput("quarantine", quarantine_failed(row, [why]))
