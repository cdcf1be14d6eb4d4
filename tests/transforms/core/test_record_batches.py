"""What flows: batches put together, widened, and filled up."""

import numpy as np
import pyarrow as pa

from transforms.core.record_batches import BASELINED, RAW, append_columns, build_batch, concat, make_empty

ROWS = pa.RecordBatch.from_pydict(
    {"text": [f"text {i}" for i in range(10)], "list": [[i] for i in range(10)]}
)


def test_batches_are_put_behind_each_other() -> None:
    parts = [ROWS[:2], ROWS[7:8], ROWS[:0]]
    assert concat(parts)["text"].to_pylist() == ["text 0", "text 1", "text 7"]
    assert concat(parts[:1]) is parts[0]


def test_a_column_that_is_not_given_is_null_and_one_too_many_is_left_out() -> None:
    columns = {"message_id": pa.array(["m0", "m1"]), "other": pa.array([1, 2])}
    assert build_batch(columns, RAW, 2).to_pylist() == [
        {"source": None, "message_id": name, "received_at": None, "payload": None} for name in ("m0", "m1")
    ]


def test_columns_are_appended_at_the_end() -> None:
    batch = append_columns(ROWS[:2], [(pa.field("n", pa.int64()), pa.array(np.arange(2)))])
    assert (batch.schema.names, batch["n"].to_pylist()) == (["text", "list", "n"], [0, 1])


def test_an_empty_batch_has_every_column() -> None:
    assert (make_empty(BASELINED).num_rows, make_empty(BASELINED).schema) == (0, BASELINED)
