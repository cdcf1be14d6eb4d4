"""Parquet files of envelopes: which columns, of which types, and what a row means."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.tables import TIME
from tests.builders import line_id
from transforms.core.record_batches import RAW
from transforms.envelopes.envelope_lines import WRONG_TIME
from transforms.sources.archives.decompression import DamagedError
from transforms.sources.archives.envelope_chunks import REJECTED
from transforms.sources.archives.parquet_files import decode_rows, read_rows

AT = datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)
GOOD = {
    "message_id": ["1-0", "2-0"],
    "received_at": pa.array([AT, None], TIME),
    "data": ['{"a":1}', "no\nJSON\n"],
}
MESSAGES = pa.RecordBatch.from_pydict(
    {
        "source": ["archive"] * 2,
        "message_id": ["1-0", "2-0"],
        "received_at": [AT, None],
        "payload": [b'{"a":1}\n', b"no\nJSON\n\n"],
    },
    schema=RAW,
)


def table(**columns: object) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({**GOOD, **columns})


def test_a_row_is_a_message_and_its_data_the_payload() -> None:
    decoded = decode_rows(table())
    assert (decoded.messages, decoded.rejected.num_rows, decoded.lines) == (MESSAGES, 0, 2)


@pytest.mark.parametrize(
    "received_at",
    [
        pa.array(["2026-01-01T01:00:00.000001+01:00", None]),
        pa.array([np.datetime64("2026-01-01T00:00:00.000001999", "ns"), None]),
        pa.array([AT, None], pa.timestamp("us", "Asia/Tokyo")),
        pa.array([AT.replace(tzinfo=None), None], pa.timestamp("us")),
    ],
)
def test_a_time_may_be_written_in_any_usual_way(received_at: pa.Array) -> None:
    assert decode_rows(table(received_at=received_at)).messages == MESSAGES


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_data_may_be_text_or_bytes(kind: pa.DataType) -> None:
    assert decode_rows(table(data=pa.array(GOOD["data"]).cast(kind))).messages == MESSAGES


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_time_outside_of_the_years_1_to_9999_is_wrong(unit: str) -> None:
    ticks = {"s": 1, "ms": 1000, "us": 10**6}[unit]
    end = 253_402_300_800 * ticks
    edges = [end - 1, end, -62_135_596_800 * ticks, -62_135_596_800 * ticks - 1, 2**62, -(2**62)]
    rows = pa.RecordBatch.from_pydict(
        {
            "message_id": list("abcdef"),
            "received_at": pa.array(edges, pa.int64()).cast(pa.timestamp(unit)),
            "data": ["{}"] * 6,
        }
    )
    decoded = decode_rows(rows)
    assert decoded.messages["message_id"].to_pylist() == ["a", "c"]
    assert [str(at)[:4] for at in decoded.messages["received_at"].to_pylist()] == ["9999", "0001"]
    assert set(decoded.rejected["message"].to_pylist()) == {WRONG_TIME}


@pytest.mark.parametrize("name", ["message_id", "source"])
def test_a_name_that_is_not_utf_8_is_no_name(name: str) -> None:
    garbled = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"1\xff\xfe")
    )
    decoded = decode_rows(table(**{name: garbled}))
    assert decoded.messages[name].to_pylist() == ["1"]
    assert decoded.rejected["message"].to_pylist() == ["message_id and source must be UTF-8"]


def test_bytes_that_are_not_utf_8_pass_through() -> None:
    assert decode_rows(table(data=[b"\xff", b""])).messages["payload"].to_pylist() == [b"\xff\n", b"\n"]


def test_a_source_may_be_given_for_some_rows() -> None:
    assert decode_rows(table(source=["s", None])).messages["source"].to_pylist() == ["s", "archive"]


WRITTEN = [b"[None, None, None, b'b']", b"[None, b'3-0', b'noon', b'c']", b"[None, b'4-0', None, None]"]
"""What the columns of the rows below hold, as the text that their ids are digests of."""


def test_a_row_that_is_no_message_is_known_by_its_number_and_what_it_holds() -> None:
    rows = pa.RecordBatch.from_pydict(
        {
            "message_id": ["1-0", None, "3-0", "4-0"],
            "received_at": [None, None, "noon", None],
            "data": ["a", "b", "c", None],
        }
    )
    decoded = decode_rows(rows, 10)
    assert decoded.messages["message_id"].to_pylist() == ["1-0"]
    assert decoded.rejected == pa.RecordBatch.from_pydict(
        {
            "source": ["archive"] * 3,
            "message_id": [line_id(11 + i, text) for i, text in enumerate(WRITTEN)],
            "received_at": [None] * 3,
            "payload": [b"b\n", b"c\n", b"\n"],
            "message": [
                "message_id must not be null",
                "received_at must be an RFC 3339 date-time or null",
                "data must not be null",
            ],
            "payload_bytes": [None] * 3,
            "payload_sha256": [None] * 3,
        },
        schema=REJECTED,
    )


def test_a_file_is_read_in_parts_of_about_the_size_asked_for(tmp_path: Path) -> None:
    texts = [str(i) for i in range(5000)]
    whole = pa.table({"message_id": texts, "received_at": pa.nulls(5000), "data": texts})
    pq.write_table(
        whole.append_column("more", pa.array(range(5000))), tmp_path / "f.parquet", row_group_size=1000
    )
    parts = list(read_rows(str(tmp_path / "f.parquet"), 4096))
    assert pa.Table.from_batches([batch for _, batch, _ in parts]).equals(
        whole.select(["message_id", "received_at", "data"])
    )
    assert len(parts) > 5
    assert parts[-1][2] == 1.0


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"task_id": ["t"]},
            "no column message_id; an archive has message_id, received_at, data and perhaps source",
        ),
        (
            {"message_id": [1], "received_at": ["x"], "data": ["{}"]},
            "column message_id is int64; it must be a string",
        ),
        (
            {"message_id": ["1"], "received_at": ["x"], "data": [{"a": 1}]},
            "column data is struct<a: int64>; it must be",
        ),
    ],
)
def test_a_file_without_the_columns_says_which_it_lacks(tmp_path: Path, columns: dict, reason: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    with pytest.raises(DamagedError, match=reason):
        list(read_rows(str(tmp_path / "f.parquet"), 4096))


def test_a_file_without_rows_has_no_batches(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_batches([table()]).slice(0, 0), tmp_path / "f.parquet")
    assert list(read_rows(str(tmp_path / "f.parquet"), 4096)) == []


def test_a_file_that_is_no_parquet_says_so(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and more PAR1")
    with pytest.raises(DamagedError, match="no Parquet, or corrupt"):
        list(read_rows(str(tmp_path / "f.parquet"), 4096))


@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY", "long at the end"])
def test_a_small_file_of_long_rows_is_read_in_parts_of_about_the_size_asked_for(
    tmp_path: Path, encoding: str
) -> None:
    data = (
        ["x" * 100_000] * 3000 if encoding != "long at the end" else ["{}"] * 20_000 + ["x" * 100_000] * 300
    )
    rows = pa.table(
        {"message_id": [str(i) for i in range(len(data))], "received_at": pa.nulls(len(data)), "data": data}
    )
    columns = {"data": encoding, "message_id": "PLAIN"} if encoding == "DELTA_BYTE_ARRAY" else None
    pq.write_table(
        rows,
        tmp_path / "a.parquet",
        compression="zstd",
        column_encoding=columns,
        use_dictionary=columns is None,
    )
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    found = [batch for _, batch, _ in read_rows(str(tmp_path / "a.parquet"), 4 << 20)]
    assert max(batch.nbytes for batch in found) < 5 << 20
    assert sum(batch.num_rows for batch in found) == len(data)
    assert found[-1]["data"][-1].as_py() == data[-1]
