"""Marks over HTTP: who may make one, of what, and what becomes of it."""

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.service import server
from pipelines.service.marks import LONGEST_NOTE
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import ask, make_output
from tests.pipelines.service.test_access import House, keep_house
from tests.service import HOST, Reply, RunningService, make_service, run_service
from transforms.core import durable_files

PATH = "/kpi/marks"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("marks") / "out")


@pytest.fixture
def service(output: Path) -> Iterator[RunningService]:
    with run_service(make_service(output)) as running:
        yield running


@pytest.fixture
def house(tmp_path: Path, output: Path) -> Iterator[House]:
    with keep_house(tmp_path, output) as house:
        yield house


def find_report(output: Path, number: int = 50) -> dict[str, Any]:
    """A report whose latency is flagged, not its accuracy, without a mark."""
    rows = ask(output, "reports-by-task", task_id=f"task {number // 3}").rows.to_pylist()
    return next(row for row in rows if row["is_latency_outlier"])


def make_body(report: dict[str, Any], **said: Any) -> dict[str, Any]:
    return {"report_id": report["report_id"], "column": "latency_ms", "verdict": "verified", **said}


def test_a_mark_is_kept_and_shown_beside_its_report(output: Path, service: RunningService) -> None:
    report = find_report(output)
    made = service.post(PATH, make_body(report, note="seen on the machine"))
    assert (made.status, made.headers["Content-Type"]) == (201, "application/json")
    assert made.json["value"] == report["latency_ms"]
    assert made.json["marked_by"] == "local"
    (kept,) = service.get("/query/marks", report_id=report["report_id"]).json["rows"]
    assert kept == made.json
    rows = service.get("/query/anomalies", limit=1000).json["rows"]
    (shown,) = [row for row in rows if row["report_id"] == report["report_id"]]
    assert shown["mark"] == {"latency_ms": "verified"}


def test_a_request_that_is_sent_again_makes_no_second_mark(output: Path, service: RunningService) -> None:
    body = make_body(find_report(output, 150))
    first, again = service.post(PATH, body), service.post(PATH, body)
    assert (first.status, again.status) == (201, 200)
    assert first.json == again.json
    changed = service.post(PATH, body | {"verdict": "false"})
    assert changed.status == 201
    listed = service.get("/query/marks", report_id=body["report_id"])
    assert [row["verdict"] for row in listed.json["rows"]] == ["false"]
    both = service.get("/query/marks", report_id=body["report_id"], state="all")
    assert [row["verdict"] for row in both.json["rows"]] == ["false", "verified"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"report_id": "0" * 30}, 404, "no such report"),
        ({"report_id": ""}, 400, "report_id"),
        ({"report_id": "x" * 1001}, 400, "report_id"),
        ({"report_id": 7}, 400, "report_id"),
        ({"report_id": "' OR true --"}, 404, "no such report"),
        ({"report_id": "\ud800"}, 400, "mark"),
        ({"column": "accuracy"}, 409, "is not flagged"),
        ({"column": "memory_mb"}, 409, "is not flagged"),
        ({"column": "report_id"}, 400, "column"),
        ({"verdict": "maybe"}, 400, "verdict"),
        ({"note": "x" * (LONGEST_NOTE + 1)}, 400, "note"),
        ({"note": "\udfff"}, 400, "mark"),
        ({"marked_by": "root"}, 400, "marked_by"),
        ({"recorded_at": "2025-10-20T20:00:00"}, 400, "recorded_at"),
        ({"recorded_at": "9999-12-31T23:59:59.999999Z"}, 400, "mark"),
        ({"recorded_at": "2001-01-01T00:00:00Z"}, 404, "no such report"),
    ],
)
def test_what_is_no_mark_is_refused_with_a_fix(
    change: dict[str, Any], status: int, said: str, output: Path, service: RunningService
) -> None:
    reply = service.post(PATH, make_body(find_report(output, 250), **change))
    assert (reply.status, set(reply.json)) == (status, {"error", "fix"})
    assert said in reply.json["error"]
    assert reply.json["fix"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"report_id":' * 5000, b"\xff\xfe", b"\x00"])
def test_a_body_that_is_no_json_of_a_mark_is_refused(body: bytes, service: RunningService) -> None:
    reply = service.request("POST", PATH, {"Content-Type": "application/json"}, body)
    assert reply.status in (400, 413)
    assert set(reply.json) == {"error", "fix"}


def test_only_json_that_is_called_so_is_taken(output: Path, service: RunningService) -> None:
    """A form of another site can send text and forms without asking, but not JSON."""
    body = json.dumps(make_body(find_report(output, 250))).encode()
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        assert service.request("POST", PATH, {"Content-Type": content_type}, body).status == 415
    assert service.post(PATH, {}, Origin="http://evil.example").status == 403
    assert service.post(PATH, {}, Host="evil.example").status == 421
    for method in ("GET", "PUT", "DELETE"):
        assert service.request(method, PATH).status == 405


def test_the_time_of_the_report_saves_reading_all_files(
    output: Path, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    run_query = server.ROUTES[-1].handler.__globals__["run_query"]

    def count(*arguments: Any, **options: Any) -> Any:
        answer = run_query(*arguments, **options)
        opened.append(answer.files)
        return answer

    monkeypatch.setattr("pipelines.service.marks.run_query", count)
    report = find_report(output, 350)
    body = make_body(report, recorded_at=report["recorded_at"].isoformat())
    assert service.post(PATH, body).status == 201
    assert service.post(PATH, make_body(report)).status == 200
    assert opened[0] == 1 < opened[1]


def test_a_body_that_does_not_come_is_not_waited_for(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    with socket.create_connection((HOST, service.port), timeout=PATIENCE) as client:
        head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert client.recv(1000) == b""
    assert service.get("/healthz").status == 200


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_503(
    output: Path, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = make_body(find_report(output, 450))
    for number, said in ((errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be kept")):

        def fail(*_: Any, number: int = number) -> int:
            raise OSError(number, "cannot write")

        with monkeypatch.context() as patch:
            patch.setattr(durable_files, "append_bytes", fail)
            reply = service.post(PATH, body)
        assert reply.status == 503
        assert said in reply.json["error"]
        assert reply.json["fix"]
    assert service.post(PATH, body).status == 201


def test_two_services_of_one_output_show_each_others_marks(output: Path, service: RunningService) -> None:
    body = make_body(find_report(output, 550))
    with run_service(make_service(output)) as other:
        assert service.post(PATH, body).status == 201
        assert other.post(PATH, body).status == 200
        assert other.post(PATH, body | {"verdict": "false"}).status == 201
        (row,) = service.get("/query/marks", report_id=body["report_id"]).json["rows"]
        assert row["verdict"] == "false"


def test_marks_outlive_their_report(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    marks = ask(output, "marks").rows
    for path in (output / "kpi_reports").rglob("*.parquet"):
        path.unlink()
    assert ask(output, "marks").rows == marks
    assert ask(output, "anomalies").rows.num_rows == 0


def test_a_mark_and_its_words_are_in_the_audit(output: Path, house: House) -> None:
    body = make_body(find_report(output, 650), note="looked at it")
    assert house.post("marker", PATH, body).status == 201
    begun = [line for line in house.read_audit() if line["type"] == "begin"][-1]
    assert (begun["subject"], begun["action"]) == ("marker", "mark")
    assert json.loads(begun["object"]["body"]) == body
    (kept,) = house.get("marker", f"/query/marks?report_id={body['report_id']}").json["rows"]
    assert kept["marked_by"] == "marker"


def test_nobody_marks_who_may_not_read_what_is_marked(output: Path, house: House) -> None:
    body = make_body(find_report(output, 750))
    for client in ("monitoring", "kpi-consumer", "granted", "optimization-admin", "stranger"):
        assert house.post(client, PATH, body).status == 403
    assert house.post("", PATH, body).status == 401
    assert house.post("marker", PATH, body, Origin="https://evil.example").status == 403
    assert not house.get("marker", f"/query/marks?report_id={body['report_id']}").json["rows"]
    assert house.post("marker", PATH, body | {"note": "x" * 20_000}).status == 413
    refused = [line for line in house.read_audit() if line["type"] == "refused"]
    assert {line["status"] for line in refused} == {401, 403, 413}


def test_a_consumer_sees_marks_without_notes_and_without_plain_ids(house: House) -> None:
    seen: Reply = house.get("kpi-consumer", "/query/marks")
    assert seen.json["withheld"] == ["note"]
    plain = {row["report_id"] for row in house.get("marker", "/query/marks").json["rows"]}
    assert plain
    assert not plain & {row["report_id"] for row in seen.json["rows"]}
    anomalies = house.get("kpi-consumer", "/query/anomalies").json
    assert anomalies["withheld"] == ["mark"]
    assert {row["report_id"] for row in seen.json["rows"]} & {row["report_id"] for row in anomalies["rows"]}
