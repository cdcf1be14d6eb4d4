"""The lines of many envelopes are those of each by itself."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import TIME
from transforms.core.record_batches import RAW
from transforms.envelopes import envelope_batches
from transforms.envelopes.envelope_batches import write_envelopes
from transforms.envelopes.envelope_lines import write_envelope

NOON = 1_761_134_400_000_000


def raw(payloads: list[bytes], source: str = "s", micros: int | None = NOON) -> pa.RecordBatch:
    """Messages of one source, a millisecond apart."""
    count = len(payloads)
    times = [None if micros is None else micros + 1000 * place for place in range(count)]
    columns = [
        pa.array([source] * count, pa.string()),
        pa.array([f"{place + 1}-0" for place in range(count)], pa.string()),
        pa.array(times, pa.int64()).cast(TIME),
        pa.array([payload + b"\n" for payload in payloads], pa.large_binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RAW)


def one_by_one(rows: pa.RecordBatch) -> bytes:
    lines = [
        write_envelope(
            row["source"],
            row["message_id"],
            row["received_at"] and f"{row['received_at']:%Y-%m-%dT%H:%M:%S.%fZ}",
            row["payload"][:-1],
        )
        for row in rows.to_pylist()
    ]
    return b"".join(line + b"\n" for line in lines)


HARD = [
    b"",
    b'{"a":"b"}',
    b"\\",
    b'"',
    b'\\"\\',
    b"a\nb",
    b"\n",
    b"\x00",
    b"\x7f",
    b"\xff",
    "ü\u2028".encode(),
    b" \t",
]


@pytest.fixture(autouse=True)
def together(monkeypatch) -> None:
    """Few rows are many here."""
    monkeypatch.setattr(envelope_batches, "_FEW", 1)


@given(st.lists(st.binary(max_size=6) | st.sampled_from(HARD), max_size=8))
def test_the_lines_of_many_are_those_of_each(payloads):
    rows = raw(payloads)
    assert bytes(write_envelopes(rows)) == one_by_one(rows)


def test_a_slice_gives_its_own_rows_only():
    rows = raw([b'{"a":1}', b"\\", b'"\n"', b"{}"])
    assert bytes(write_envelopes(rows.slice(1, 2))) == one_by_one(rows.slice(1, 2))


def test_few_rows_give_the_same_lines(monkeypatch):
    monkeypatch.setattr(envelope_batches, "_FEW", 10)
    rows = raw(HARD[:5])
    assert bytes(write_envelopes(rows)) == one_by_one(rows)


@pytest.mark.parametrize(
    "micros", [None, 0, NOON, 253_402_300_700_000_000], ids=["unknown", "1970", "now", "9999"]
)
@pytest.mark.parametrize("source", ["kpi reports", 'a"\\\n', "ü"])
def test_any_source_and_time_is_written_as_one_by_one(source, micros):
    rows = raw([b"{}", b"\x80"], source, micros)
    assert bytes(write_envelopes(rows)) == one_by_one(rows)
