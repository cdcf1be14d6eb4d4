"""A message of Protocol Buffers gets the verdict, the row and the reason of its JSON form, whatever its
neighbours are."""

import json
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.kinds import KINDS
from schemas.protobuf.encode import encode_document
from schemas.protobuf.json_form import write_json
from schemas.readers.verdicts import MessageLimits
from schemas.registry import load
from tests.builders import NOON, messages, report
from tests.properties.test_schema_oracle import mutate, values
from transforms.core.message_encodings import JSON, PROTOBUF
from transforms.validation.message_kinds import bound
from transforms.validation.validate import Judged, MessageRules, judge_block

RULES = MessageRules(stale_seconds=10**12, future_seconds=10**12)
VERDICT = ["message_id", "reason", "field", "rule"]


def judge(kind: str, payloads: list[bytes], encoding: str) -> Judged:
    found = judge_block(messages(payloads, NOON + timedelta(seconds=1)), load(kind), RULES, encoding)
    return Judged(sort(found.rows), sort(found.quarantine))


def sort(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows.sort_by("message_id")


@st.composite
def documents(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """A document of a kind: valid, or changed in one place."""
    document: dict[str, Any] = draw(values(load(kind).document))
    if draw(st.booleans()):
        mutate(draw, document)
    return document


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_encodings_of_a_document_have_the_same_rows_and_reasons(kind: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(documents(kind), min_size=1, max_size=12))
    pairs = []
    for document in drawn:
        try:
            pairs.append((json.dumps(document).encode(), encode_document(kind, load(kind).root, document)))
        except ValueError:  # no message can hold it
            continue
    assume(pairs)
    texts, octets = map(list, zip(*pairs))
    rows, quarantine = judge(kind, texts, JSON)
    found, rejected = judge(kind, octets, PROTOBUF)
    assert found.to_pylist() == rows.to_pylist()
    assert rejected.select(VERDICT).to_pylist() == quarantine.select(VERDICT).to_pylist()
    assert set(rejected["encoding"].to_pylist()) <= {None, PROTOBUF}


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """The bytes of a message: cut, changed, put together from two, or any."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    try:
        octets = encode_document(kind, load(kind).root, draw(documents(kind)))
    except ValueError:
        octets = b""
    first, last = sorted((draw(st.integers(0, len(octets))), draw(st.integers(0, len(octets)))))
    return octets[:first] + draw(st.binary(max_size=6)) + octets[draw(st.sampled_from([first, last])) :]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_judged_alone_as_among_others_and_as_their_json_form(
    kind: str, data: st.DataObject
) -> None:
    octets = data.draw(st.lists(damaged(kind), min_size=1, max_size=12))
    together = judge(kind, octets, PROTOBUF)
    for number, each in enumerate(octets):
        alone = judge(kind, [each], PROTOBUF)
        own = pa.scalar(f"m{number}")
        for one, of_all in zip(alone, together):
            mine = of_all.filter(pa.compute.equal(of_all["message_id"], own)).to_pylist()
            assert [row | {"message_id": "m0"} for row in mine] == one.to_pylist()
        form = write_json(kind, load(kind).root, each, bound(MessageLimits(), KINDS[kind]))
        if isinstance(form, bytes):
            rows, quarantine = judge(kind, [form], JSON)
            assert alone.rows.to_pylist() == rows.to_pylist()
            wanted = quarantine.select([*VERDICT, "message"]).to_pylist()
            assert alone.quarantine.select([*VERDICT, "message"]).to_pylist() == wanted
        else:
            assert alone.quarantine["reason"].to_pylist() == [form.reason]


def test_one_that_is_no_message_leaves_its_neighbours_to_the_fast_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from schemas.protobuf import reader

    strict: list[int] = []
    before = reader.write_json
    monkeypatch.setattr(reader, "write_json", lambda *given: strict.append(len(given[2])) or before(*given))
    root = load("kpi_report").root
    octets = [encode_document("kpi_report", root, report(number)) for number in range(200)]
    octets[77] = b"\xff\xff"
    assert judge("kpi_report", octets, PROTOBUF).rows.num_rows == 199
    assert 2 in strict
    assert len(strict) <= 8
