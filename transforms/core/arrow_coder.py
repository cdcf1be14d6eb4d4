"""The Beam coder of record batches.

Importing this module registers it: a module whose transforms give batches imports it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import apache_beam as beam
import pyarrow as pa

_lent: dict[bytes, pa.RecordBatch] | None = None
_numbers = count()


class BatchCoder(beam.coders.Coder):
    """A RecordBatch as an Arrow IPC stream, which holds only the rows of a slice.

    Pickle would write the whole parent.

    See also `pass_by_reference`.
    """

    def encode(self, batch: pa.RecordBatch) -> bytes:
        if _lent is not None:
            number = b"%d" % next(_numbers)
            _lent[number] = batch
            return number
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        if _lent is not None:
            return _lent[encoded]
        with pa.ipc.open_stream(pa.py_buffer(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, batch: pa.RecordBatch) -> int:
        return int(batch.nbytes)

    def is_deterministic(self) -> bool:
        return False


@contextmanager
def pass_by_reference() -> Iterator[None]:
    """Within the context a batch is encoded as a number: for a runner whose stages are all in this process.

    A batch may be decoded any number of times, so all are kept until the context ends. It is process-wide:
    one run at a time.
    """
    global _lent
    before, _lent = _lent, {}
    try:
        yield
    finally:
        _lent = before


beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)
