"""Requests that are not HTTP, or ask HTTP for what is not given: a JSON answer, at most one line in the log,
both without a byte of the sender."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.service import query_answers
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import make_output
from tests.service import HOST, RunningService, make_service, run_service

MARK = b"Sender5ent"
START = b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /kpi/marks " + START + b"Content-Type: application/json\r\n"
SENT = {
    "no HTTP": (b"\x16\x03\x01 Sender5ent\r\n\r\n", 400),
    "an unknown protocol": (b"GET / Sender5ent/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "a method with a colon": (b"Sender5ent: / HTTP/1.1\r\n\r\n", 400),
    "a header without a colon": (b"GET / " + START + b"Sender5ent\r\n\r\n", 400),
    "a header with a zero": (b"GET / " + START + b"X: Sender5ent\x00\r\n\r\n", 400),
    "a folded header": (b"GET / " + START + b"X: a\r\n Sender5ent\r\n\r\n", 400),
    "a path that is too long": (b"GET /" + MARK * 2000 + b" " + START + b"\r\n", 400),
    "a header that is too long": (b"GET / " + START + b"X: " + MARK * 2000 + b"\r\n\r\n", 400),
    "too many headers": (b"GET / " + START + b"Sender5ent: a\r\n" * 200 + b"\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nSender5ent", 400),
    "a length that is no number": (POST + b"Content-Length: Sender5ent\r\n\r\n", 400),
    "a length and chunks": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nSender5ent\r\n", 400,
    ),
    "a chunk without a length": (POST + b"Transfer-Encoding: chunked\r\n\r\nSender5ent\r\n\r\n", 400),
    "a later chunk without a length": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nSender5ent\r\n\r\n", 400,
    ),
    "a body that is not gzip": (
        POST + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\nSender5ent", 400,
    ),
    "an unknown Expect": (b"GET /queries " + START + b"Expect: Sender5ent\r\n\r\n", 417),
    "an unknown Expect of no route": (b"GET /nowhere " + START + b"Expect: Sender5ent\r\n\r\n", 417),
    "an address with a bad port": (b"GET http://a:Sender5ent/ " + START + b"\r\n", 400),
    "an address that is none": (b"GET http://[Sender5ent/queries " + START + b"\r\n", 400),
    "a method that connects": (b"CONNECT Sender5ent:1 " + START + b"\r\n", 421),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    output: Path = make_output(tmp_path_factory.mktemp("malformed") / "out")
    with run_service(make_service(output)) as running:
        yield running


@pytest.mark.parametrize("sent", SENT)
def test_the_answer_and_the_log_have_no_byte_of_the_sender(
    sent: str, service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request, expected = SENT[sent]
    head, body = _send(service, request)
    assert int(head.split()[1]) == expected
    assert b"application/json" in head
    assert b"nosniff" in head
    assert set(json.loads(body)) == {"error", "fix"}
    assert MARK not in head + body
    assert len(caplog.records) <= 1
    assert not any(MARK.decode() in each.getMessage() or each.exc_info for each in caplog.records)
    assert service.get("/healthz").status == 200


def test_a_failure_of_the_service_is_one_line_of_the_log(
    service: RunningService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("first\nsecond\x1b[31m")

    monkeypatch.setattr(query_answers, "run_query", fail)
    assert service.get("/query/agent-summary").json["error"] == "the service failed"
    (line,) = [each.getMessage() for each in caplog.records]
    assert "RuntimeError: first" in line
    assert not set("\n\x1b") & set(line)


def _send(service: RunningService, request: bytes) -> tuple[bytes, bytes]:
    """The head and the body of the answer to what is sent."""
    with socket.create_connection((HOST, service.port), timeout=PATIENCE) as client:
        client.sendall(request)
        got = b""
        while b"}" not in got and (part := client.recv(65536)):
            got += part
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body
