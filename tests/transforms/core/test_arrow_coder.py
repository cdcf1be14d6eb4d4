"""Record batches on their way between stages."""

import apache_beam as beam
import pyarrow as pa
import pytest

from transforms.core.arrow_coder import BatchCoder, pass_by_reference

ROWS = pa.RecordBatch.from_pydict(
    {"agent_id": ["a", None, "c"] * 1000, "latency_ms": [1.0, 2.0, None] * 1000}
)


def test_a_batch_comes_back_as_it_was() -> None:
    assert BatchCoder().decode(BatchCoder().encode(ROWS)).equals(ROWS, check_metadata=True)


def test_a_slice_is_written_without_the_rest_of_its_batch() -> None:
    encoded = BatchCoder().encode(ROWS.slice(1, 2))
    assert BatchCoder().decode(encoded).equals(ROWS.slice(1, 2))
    assert len(encoded) < 1000


def test_beam_takes_it_for_every_batch() -> None:
    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), BatchCoder)


def test_within_one_process_a_batch_is_itself_however_often_it_is_read() -> None:
    with pass_by_reference():
        encoded = BatchCoder().encode(ROWS)
        assert BatchCoder().decode(encoded) is ROWS
        assert BatchCoder().decode(encoded) is ROWS


def test_references_end_with_their_block() -> None:
    with pass_by_reference():
        with pass_by_reference():
            inner = BatchCoder().encode(ROWS)
        with pytest.raises(KeyError):
            BatchCoder().decode(inner)
    assert BatchCoder().decode(BatchCoder().encode(ROWS)).equals(ROWS)
