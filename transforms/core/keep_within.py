"""Keep the rows that are within a span of time."""

import apache_beam as beam
import pyarrow as pa

from transforms.core.time_range import Span, keep_within


class KeepWithin(beam.PTransform):
    """RecordBatches -> their rows whose `column` is within the span."""

    def __init__(self, span: Span, column: str) -> None:
        super().__init__()
        self.span, self.column = span, column

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        if self.span.everything:
            return batches
        return batches | beam.FlatMap(keep_within, self.span, self.column).with_output_types(pa.RecordBatch)
