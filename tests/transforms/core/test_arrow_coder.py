"""Record batches on their way between stages."""

from pathlib import Path

import apache_beam as beam
import pyarrow as pa

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


def test_a_reference_is_short_and_can_be_read_as_often_as_one_likes(tmp_path: Path) -> None:
    with pass_by_reference(tmp_path):
        encoded = BatchCoder().encode(ROWS)
        assert len(encoded) < 50
        assert BatchCoder().decode(encoded).equals(ROWS)
        assert BatchCoder().decode(encoded).equals(ROWS)


def test_references_end_with_their_context_and_the_one_around_it_goes_on(tmp_path: Path) -> None:
    (inner := tmp_path / "inner").mkdir()
    with pass_by_reference(tmp_path):
        outer = BatchCoder().encode(ROWS.slice(0, 1))
        with pass_by_reference(inner):
            BatchCoder().encode(ROWS)
            assert list(inner.iterdir())
        assert BatchCoder().decode(outer).equals(ROWS.slice(0, 1))
    assert BatchCoder().decode(BatchCoder().encode(ROWS)).equals(ROWS)
