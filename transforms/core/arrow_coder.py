"""The Beam coder of record batches.

Importing this module registers it: a module whose transforms give batches imports it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from transforms.core.batch_spool import BatchSpool

_spool: BatchSpool | None = None


class BatchCoder(beam.coders.Coder):
    """A RecordBatch as an Arrow IPC stream, which holds only the rows of a slice.

    Pickle would write the whole parent. Within `pass_by_reference` it is a reference into a spool.
    """

    def encode(self, batch: pa.RecordBatch) -> bytes:
        if _spool is not None:
            return _spool.write(batch)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        if _spool is not None:
            return _spool.read(encoded)
        with pa.ipc.open_stream(pa.py_buffer(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, batch: pa.RecordBatch) -> int:
        return int(batch.nbytes)

    def is_deterministic(self) -> bool:
        return False


@contextmanager
def pass_by_reference(folder: Path) -> Iterator[None]:
    """Within the context a batch is encoded as a reference into a spool in `folder`, which exists.

    For a run whose processes are all on this machine and within such a context: only references then pass
    through the runner, and batches between stages need no memory.
    """
    global _spool
    before, _spool = _spool, BatchSpool(folder)
    try:
        with closing(_spool):
            yield
    finally:
        _spool = before


beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)
