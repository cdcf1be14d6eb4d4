"""The Beam coder of record batches. Importing this module registers it, so that whatever passes batches on writes Arrow IPC."""

import apache_beam as beam
import pyarrow as pa


class BatchCoder(beam.coders.Coder):
    """A RecordBatch as an Arrow IPC stream: only the rows of a slice are written, unlike with pickle."""

    def encode(self, batch: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(pa.py_buffer(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, batch: pa.RecordBatch) -> int:
        return int(batch.nbytes)

    def is_deterministic(self) -> bool:
        return False


beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)
