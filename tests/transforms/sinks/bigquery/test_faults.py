"""The store in BigQuery when something goes wrong on the way, and what it says of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import google.auth
import grpc
import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError, TransportError

from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, REPORTS, Table
from tests.bigquery import CUT, LOST, SLOW, Emulator, Failure, Faulty, refusing, store
from tests.servers import free_port
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.bigquery import row_format, service
from transforms.sinks.bigquery.bigquery_store import BigQuery
from transforms.sinks.bigquery.dataset_tables import inbox_name
from transforms.sinks.bigquery.errors import judged

NOON = datetime(2025, 10, 22, 12, tzinfo=UTC)
JOBS, RESULTS, APPEND = (
    "POST /bigquery/v2/projects/demo/jobs",
    "GET /bigquery/v2/projects/demo/queries",
    "AppendRows",
)
CONFLICT = Failure(400, "invalidQuery", "Transaction is aborted due to concurrent update against table x")


@pytest.fixture
def way(emulator: Emulator) -> Iterator[Faulty]:
    with Faulty(emulator) as faulty:
        yield faulty


@pytest.fixture
def place(emulator: Emulator, way: Faulty) -> BigQuery:
    """A store that is ready for rows, behind faults."""
    made = store(f"d{uuid4().hex}", emulator)
    made.prepare({"layout": 1})
    return store(made.dataset, way)


def batch(table: Table, *rows: dict) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=table.schema)


def reports(*numbers: int, revision: int = 1) -> pa.RecordBatch:
    rows: list[dict[str, Any]] = [
        {"report_id": f"r{number}", "message_id": f"{number}-0", "custom_metrics": [("m", 0.5)]}
        for number in numbers
    ]
    everywhere = {"source": "s", "revision": revision, "recorded_at": NOON, "received_at": NOON}
    return batch(REPORTS, *(row | everywhere for row in rows))


def stored(place: BigQuery, table: Table) -> list[dict]:
    return sorted(
        (row for part in place._read(table, "") for row in part.to_pylist()),
        key=lambda row: str(row["message_id"]),
    )


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        *((JOBS, Failure(status)) for status in (429, 500, 503)),
        *((JOBS, Failure(403, reason)) for reason in ("rateLimitExceeded", "quotaExceeded")),
        *((APPEND, fault) for fault in (LOST, SLOW)),
        *((APPEND, grpc.StatusCode[name]) for name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")),
        *((APPEND, grpc.StatusCode[name]) for name in ("INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN")),
    ],
)
def test_a_write_that_failed_on_the_way_can_be_done_again(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch, where: str, fault: Any
) -> None:
    monkeypatch.setattr(service, "STREAM_SECONDS", 0.5 if fault == SLOW else 300)
    rows = reports(1, 2)
    way.faults.add(where, fault)
    with pytest.raises(Unavailable, match="does not take this just now"):
        place.write(REPORTS, [rows])
    assert place.write(REPORTS, [rows]).rows == 2
    assert stored(place, REPORTS) == rows.to_pylist()


@pytest.mark.parametrize("fault", [LOST, CUT, SLOW])
def test_a_job_whose_answer_was_lost_is_found_by_its_id(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.9 if fault == SLOW else 60)
    way.faults.add(JOBS, fault)
    if fault == SLOW:
        # The job begins only after the client has given up, and is looked for too early.
        with pytest.raises(Unavailable):
            place.write(REPORTS, [reports(1)])
        monkeypatch.undo()
        assert place.write(REPORTS, [reports(1)]).rows in (0, 1)
    else:
        assert place.write(REPORTS, [reports(1)]).rows == 1
        assert way.seen.count(JOBS) == 1
    assert stored(place, REPORTS) == reports(1).to_pylist()


def test_asking_after_a_job_is_tried_again(place: BigQuery, way: Faulty) -> None:
    way.faults.add(RESULTS, Failure(503, "backendError"), Failure(500, "internalError"))
    assert place.write(REPORTS, [reports(1)]).rows == 1
    assert way.seen.count(JOBS) == 1


def test_a_transaction_that_met_another_is_begun_anew_without_a_second_append(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_FIRST_PAUSE", 0.01)
    way.faults.add(JOBS, CONFLICT, CONFLICT)
    assert place.write(REPORTS, [reports(1)]).rows == 1
    assert [sum(each in seen for seen in way.seen) for each in (JOBS, APPEND)] == [3, 1]


def test_transactions_that_meet_others_all_the_time_are_left_for_later(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_FIRST_PAUSE", 0.001)
    way.faults.add(JOBS, *[CONFLICT] * service.TRIES)
    with pytest.raises(Unavailable, match="let fewer write to one dataset"):
        place.write(REPORTS, [reports(1)])


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        (
            JOBS,
            Failure(403, "accessDenied", "You may not"),
            "refuses this: You may not; give the account the roles BigQuery Data",
        ),
        (
            JOBS,
            Failure(401, "authError", "Who are you"),
            "there are no credentials for bigquery://.*; run `gcloud auth",
        ),
        (JOBS, Failure(404, "notFound", "no dataset"), "no dataset; name a project that is there"),
        (JOBS, Failure(400, "invalidQuery", "Syntax"), "refuses this: Syntax"),
        (APPEND, grpc.StatusCode.PERMISSION_DENIED, "refuses this: injected; give the account the roles"),
    ],
)
def test_what_will_never_be_taken_is_refused_with_cause_and_mend(
    place: BigQuery, way: Faulty, where: str, fault: Any, message: str
) -> None:
    way.faults.add(where, fault)
    with pytest.raises(Refused, match=message):
        place.write(REPORTS, [reports(1)])


@pytest.mark.parametrize("size", [8_000_000, 600])
def test_refused_rows_go_to_quarantine_and_the_others_are_written(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(row_format, "REQUEST_BYTES", size)
    way.faults.add(APPEND, refusing(lambda row: row["report_id"] in ("r3", "r5"), "no such day"))
    assert place.write(REPORTS, [reports(*range(1, 9))]).rows == 6
    assert stored(place, REPORTS) == reports(1, 2, 4, 6, 7, 8).to_pylist()
    kept = stored(place, QUARANTINED)
    refusal = {"reason": "refused", "field": "", "rule": "bigquery", "message": "no such day", "revision": 1}
    refusal |= dict.fromkeys(
        ("payload_bytes", "payload_sha256", "resolution", "dismissed_because", "dismissed_at")
    )
    message = [{"source": "s", "message_id": f"{number}-0", "received_at": NOON} for number in (3, 5)]
    assert [row | {"payload": None} for row in kept] == [
        each | {"payload": None} | refusal for each in message
    ]
    payload = json.loads(kept[0]["payload"])
    told = [payload[name] for name in ("report_id", "custom_metrics", "recorded_at")]
    assert told == ["r3", {"m": 0.5}, "2025-10-22T12:00:00+00:00"]


def test_a_message_whose_later_row_is_refused_is_no_report_any_more(place: BigQuery, way: Faulty) -> None:
    place.write(REPORTS, [reports(1, 2)])
    way.faults.add(APPEND, refusing(lambda row: row["report_id"] == "r1"))
    place.write(REPORTS, [reports(1, revision=2)])
    assert [[row["message_id"] for row in stored(place, table)] for table in (REPORTS, QUARANTINED)] == [
        ["2-0"],
        ["1-0"],
    ]


def test_a_refused_row_without_a_message_ends_the_run(place: BigQuery, way: Faulty) -> None:
    way.faults.add(APPEND, refusing(lambda row: True, "too odd"))
    rows = batch(
        AGGREGATIONS, {"granularity": "5s", "agent_id": "a", "time_window_start": NOON, "revision": 1}
    )
    with pytest.raises(
        Refused, match=r"refuses 1 rows of kpi_aggregations, first .*'agent_id': 'a'.*: too odd; fix"
    ):
        place.write(AGGREGATIONS, [rows])


def test_a_table_that_its_stream_does_not_know_yet_is_tried_later(place: BigQuery, way: Faulty) -> None:
    way.faults.add(APPEND, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(Unavailable, match="is new and not yet ready for rows"):
        place.write(REPORTS, [reports(1)])


def test_a_table_that_is_gone_is_refused(place: BigQuery) -> None:
    place._service.rest.delete_table(f"{place.dataset}.{inbox_name(DUPLICATES)}")
    with pytest.raises(Refused, match="start the job again, which makes its tables"):
        place.write(DUPLICATES, [batch(DUPLICATES, {"source": "s", "message_id": "1", "revision": 1})])


def test_a_dataset_that_is_gone_is_refused(way: Faulty) -> None:
    with pytest.raises(Refused, match="is not there any more; start the job again"):
        store(f"d{uuid4().hex}", way).has_reports()


def test_where_nobody_listens_is_tried_later_and_found_by_the_check() -> None:
    nobody = BigQuery(
        "demo", "d", endpoint=f"http://localhost:{free_port()}", storage_endpoint=f"localhost:{free_port()}"
    )
    with pytest.raises(Unavailable, match="does not take this just now"):
        nobody.read_description()
    (finding,) = nobody.check()
    assert "does not take this just now" in finding.problem


def test_missing_credentials_are_told_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    (finding,) = BigQuery("nobodys-project", "d").check()
    assert finding.problem == "there are no credentials for bigquery://nobodys-project/d"
    assert finding.fix.startswith(
        "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
    )


class Expired(Credentials):
    """Credentials that cannot be renewed."""

    def refresh(self, request: Any) -> None:
        raise RefreshError("invalid_grant: Token has been expired or revoked.")


def test_expired_credentials_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (Expired(), None))
    with pytest.raises(Refused, match=r"have expired \(invalid_grant.*\); run `gcloud auth"):
        BigQuery("expired-project", "d").read_description()


def test_a_clock_that_is_off_is_found(place: BigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> datetime:
            return datetime.now(zone) - timedelta(hours=1)

    monkeypatch.setattr("transforms.sinks.bigquery.bigquery_store.datetime", Late)
    assert "clock is 3,600 s away from BigQuery's" in list(place.check())[-1].problem


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (exceptions.BadGateway("x"), Unavailable),
        (exceptions.GatewayTimeout("x"), Unavailable),
        (exceptions.Unknown("x"), Unavailable),
        (exceptions.Cancelled("x"), Unavailable),
        (exceptions.RetryError("x", None), Unavailable),
        (TransportError("x"), Unavailable),
        (RefreshError("x", retryable=True), Unavailable),
        (RefreshError("x"), Refused),
        (requests.ConnectionError("x"), Unavailable),
        (requests.exceptions.SSLError("x"), Refused),
        (TimeoutError(), Unavailable),
        (
            exceptions.BadRequest("Could not serialize access to table t due to concurrent update"),
            Unavailable,
        ),
        (exceptions.BadRequest("x", errors=[{"reason": "stopped", "message": "y"}]), Unavailable),
        (exceptions.BadRequest("x", errors=[{"reason": "resourcesExceeded", "message": "y"}]), Refused),
        (exceptions.Conflict("x"), Refused),
        (exceptions.Unauthorized("x"), Refused),
        (exceptions.FailedPrecondition("x"), Refused),
    ],
    ids=lambda each: f"{type(each).__name__} {each}" if isinstance(each, Exception) else each.__name__,
)
def test_errors_are_told_apart(error: Exception, verdict: type) -> None:
    told = judged(error, "bigquery://p/d")
    assert type(told) is verdict
    assert "bigquery://p/d" in str(told)
    assert "\n" not in str(told)
