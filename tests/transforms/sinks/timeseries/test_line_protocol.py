"""Lines: what they hold, held to a parser of the protocol's own; and what answers to them mean."""

import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import AGGREGATIONS, FLEET
from tests.certificates import make_certificates
from transforms.core.error_signs import INFLUXDB
from transforms.core.errors import Refused, Unavailable
from transforms.core.record_batches import conform
from transforms.sinks.timeseries.http_client import TIMEOUT, HttpServer
from transforms.sinks.timeseries.line_protocol import (
    FIELDS,
    REVISION,
    SERIES,
    escape_labels,
    format_bodies,
    keep_newest,
    to_milliseconds,
)

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
MS = int(NOON.timestamp()) * 1000
Row = dict[str, Any]


class Point(NamedTuple):
    """A line, taken apart."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float]
    time: int


def fleet(*rows: Row) -> pa.RecordBatch:
    """Rows of kpi_fleet: windows of a minute from noon unless they say otherwise; columns that are not given
    are null."""
    filled = [{"granularity": "1m", "time_window_start": NOON, "revision": 1, **row} for row in rows]
    return pa.RecordBatch.from_pylist(filled, schema=FLEET.schema)


def lines(rows: pa.RecordBatch, **options: Any) -> bytes:
    return b"".join(
        format_bodies(rows, SERIES[FLEET.name], to_milliseconds(rows["time_window_start"]), FIELDS, **options)
    )


def parsed(data: bytes) -> list[Point]:
    """Lines by the grammar: a backslash takes the meaning of the comma, space or equals sign after it, and is
    else itself."""
    assert not data or data.endswith(b"\n")
    return [_point(line) for line in data.decode().split("\n")[:-1]]


def _point(line: str) -> Point:
    head, values, time = _split(line, " ")
    measurement, *tags = _split(head, ",")
    pairs = [_split(tag, "=") for tag in tags]
    assert all(len(pair) == 2 and all(pair) for pair in pairs), line
    assert all(not part.endswith("\\") for pair in pairs for part in pair), line
    fields = [field.split("=") for field in values.split(",")]
    named = {name: float(value) for name, value in fields}
    assert len(named) == len(fields), line
    return Point(measurement, {_plain(name): _plain(value) for name, value in pairs}, named, int(time))


def _split(text: str, at: str) -> list[str]:
    parts, escaped = [""], False
    for character in text:
        if character == at and not escaped:
            parts.append("")
        else:
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def _plain(text: str) -> str:
    for character in ",= ":
        text = text.replace("\\" + character, character)
    return text


def original(label: str) -> str:
    """The text that a label shows."""
    return "" if label == "%" else unquote(label)


def test_a_window_is_a_line_in_base_units() -> None:
    full = {
        "target_agent_type": "planner", "task_count": 118, "success_rate": 0.95,
        "avg_latency_ms": 120.0, "latency_stddev": 30.5, "min_latency_ms": 90.0, "max_latency_ms": 400.0,
        "latency_p50_ms": 119.0, "latency_p95_ms": 200.25, "latency_p99_ms": 399.0,
        "avg_accuracy": 0.9, "accuracy_stddev": 0.01, "avg_cpu_usage": 0.5, "avg_memory_mb": 512.5,
        "total_network_bytes": 1 << 40, "performance_score": 0.8, "efficiency_ratio": 1.5,
        "latency_outlier_count": 1, "accuracy_outlier_count": 2,
        "cpu_outlier_count": 3, "memory_outlier_count": 4,
    }  # fmt: skip
    assert lines(fleet(full)).decode() == (
        "kpi,granularity=1m,agent_type=planner tasks=118,success_ratio=0.95,latency_seconds=0.12,"
        "latency_stddev_seconds=0.0305,latency_min_seconds=0.09,latency_max_seconds=0.4,"
        "latency_p50_seconds=0.119,latency_p95_seconds=0.20025,latency_p99_seconds=0.399,"
        "accuracy_ratio=0.9,accuracy_stddev_ratio=0.01,cpu_usage_ratio=0.5,memory_bytes=512500000,"
        "network_bytes=1099511627776,performance_score=0.8,efficiency_ratio=1.5,"
        "latency_outliers=1,accuracy_outliers=2,"
        f"cpu_outliers=3,memory_outliers=4 {MS}\n"
    )


@pytest.mark.parametrize("table", [FLEET, AGGREGATIONS])
def test_every_number_of_a_window_has_a_field(table: Any) -> None:
    numbers = {
        field.name
        for field in table.schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    assert sorted(field.column for field in (*FIELDS, REVISION)) == sorted(numbers)
    assert all(field.times == 1 or field.per == 1 for field in FIELDS)


def test_what_is_null_or_no_number_is_left_out_and_a_row_of_nothing_else_is_no_line() -> None:
    rows = fleet(
        {"task_count": 2, "avg_latency_ms": float("nan"), "avg_accuracy": float("inf")},
        {},
        {"target_agent_type": "x"},
    )
    assert parsed(lines(rows)) == [Point("kpi", {"granularity": "1m"}, {"tasks": 2.0}, MS)]


def test_an_agent_is_a_tag_of_its_own_measurement() -> None:
    row = {
        "granularity": "5s",
        "time_window_start": NOON,
        "agent_id": "a",
        "target_agent_type": "t",
        "task_count": 3,
    }
    rows = pa.RecordBatch.from_pylist([row], schema=AGGREGATIONS.schema)
    (body,) = format_bodies(rows, SERIES[AGGREGATIONS.name], np.array([MS + 7]), FIELDS)
    assert parsed(body) == [
        Point("kpi_agent", {"granularity": "5s", "agent_id": "a"}, {"tasks": 3.0}, MS + 7)
    ]


@given(st.lists(st.none() | st.text(max_size=8) | st.text("a\\,= \n\r%\0\x7f\"'#", max_size=6), max_size=20))
def test_any_text_is_a_tag_that_tells_it(texts: list[str | None]) -> None:
    rows = fleet(*({"target_agent_type": text, "task_count": place} for place, text in enumerate(texts)))
    points = parsed(lines(rows, labels={"site": "a b,c=d"}))
    assert [point.fields["tasks"] for point in points] == list(range(len(texts)))
    assert [point.tags.pop("site") for point in points] == ["a b,c=d"] * len(texts)
    labels = [point.tags.get("agent_type") for point in points]
    assert [None if label is None else original(label) for label in labels] == texts
    assert escape_labels(rows["target_agent_type"]).to_pylist() == labels


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.integers(0, 1 << 53)
        )
    )
)
def test_numbers_come_back_as_they_were(values: list[tuple[float | None, int | None]]) -> None:
    rows = fleet(*({"avg_accuracy": one, "total_network_bytes": other} for one, other in values))
    wanted = [
        {"accuracy_ratio": one, "network_bytes": other}
        for one, other in values
        if one is not None or other is not None
    ]
    found = [point.fields for point in parsed(lines(rows))]
    assert found == [
        {name: value for name, value in fields.items() if value is not None} for fields in wanted
    ]


@pytest.mark.parametrize("limit", [1, 100, 5000, 1 << 20])
def test_bodies_are_whole_lines_within_the_limit_whatever_it_is(limit: int) -> None:
    rows = fleet(*({"target_agent_type": "é" * (place % 30), "task_count": place} for place in range(300)))
    cut = list(
        format_bodies(
            rows, SERIES[FLEET.name], to_milliseconds(rows["time_window_start"]), FIELDS, limit=limit
        )
    )
    assert b"".join(cut) == lines(rows)
    assert all(body.endswith(b"\n") and (len(body) <= limit or body.count(b"\n") == 1) for body in cut)
    assert len(cut) <= max(1, 2 * len(lines(rows)) // limit) or limit == 1


def test_of_rows_with_one_key_the_largest_revision_is_newest() -> None:
    late = {"time_window_start": NOON + timedelta(minutes=1)}
    older, newer = (
        fleet({"revision": 2}, {"revision": 5, **late}),
        fleet({"revision": 3, "task_count": 1}, {"revision": 4, **late}),
    )
    wanted = fleet({"revision": 3, "task_count": 1}, {"revision": 5, **late})
    assert keep_newest(FLEET, [older, newer]).equals(keep_newest(FLEET, [newer, older]))
    assert keep_newest(FLEET, [older, newer]).to_pylist() == wanted.to_pylist()
    assert keep_newest(FLEET, []).equals(conform(fleet(), FLEET.schema))


def server(answer: Callable[[httpx.Request], httpx.Response]) -> HttpServer:
    client = httpx.Client(base_url="http://store", transport=httpx.MockTransport(answer))
    return HttpServer(client, "store", INFLUXDB)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_a_server_that_is_busy_or_broken_is_asked_again_later(status: int) -> None:
    busy = server(lambda _: httpx.Response(status, text="too\nmuch"))
    with pytest.raises(Unavailable, match=f"store is unavailable: {status} too much"):
        busy.send("GET", "/")


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 413, 422, 501])
def test_other_answers_are_the_callers_to_judge(status: int) -> None:
    assert server(lambda _: httpx.Response(status)).send("GET", "/").status_code == status


def test_a_server_that_redirects_is_refused() -> None:
    elsewhere = server(lambda _: httpx.Response(302, headers={"location": "http://login"}))
    with pytest.raises(Refused, match="redirects to http://login; give the URL of the server itself"):
        elsewhere.send("GET", "/")


def test_lines_that_are_too_many_for_one_request_go_in_halves() -> None:
    taken = []

    def small(asked: httpx.Request) -> httpx.Response:
        body = httpx.Response(200, headers={"content-encoding": "gzip"}, content=asked.content).content
        if len(body) > 20:
            return httpx.Response(413)
        taken.append(body)
        return httpx.Response(204)

    body = b"".join(b"kpi x=%d 1\n" % number for number in range(9))
    answers = server(small).post_lines("/write", {}, body)
    assert [answer.status_code for answer in answers] == [204] * len(taken)
    assert b"".join(taken) == body
    (answer,) = server(small).post_lines("/write", {}, b"k" * 30 + b"\n")
    assert answer.status_code == 413


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose certificate this machine does not trust."""
    pems = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pems.server, pems.server_key)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_a_certificate_of_no_trusted_authority_is_refused_with_the_fix(untrusted: str) -> None:
    with (
        httpx.Client(base_url=untrusted, timeout=TIMEOUT) as real,
        pytest.raises(Refused, match="set SSL_CERT_FILE"),
    ):
        HttpServer(real, "store", INFLUXDB).send("GET", "/")
