"""The store in BigQuery when something goes wrong on the way, and what it says of it."""

from collections.abc import Iterator
from datetime import UTC, datetime
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
from google.cloud.bigquery import LoadJob

from schemas.tables import AGGREGATIONS, QUARANTINED, REPORTS, Table
from tests.bigquery import CUT, LOST, SLOW, Emulator, Failure, Faulty, store
from tests.servers import free_port
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.bigquery import client
from transforms.sinks.bigquery.bigquery_store import BigQuery
from transforms.sinks.bigquery.dataset_tables import new_inbox
from transforms.sinks.bigquery.errors import as_sink_error
from transforms.sinks.write_tables import write_or_quarantine

NOON = datetime(2025, 10, 22, 12, tzinfo=UTC)
JOBS, RESULTS = "POST /bigquery/v2/projects/demo/jobs", "GET /bigquery/v2/projects/demo/queries"
CREATE = "/tables"
UPLOAD, DATA = "POST /upload/bigquery/v2/projects/demo/jobs", "PUT /upload/bigquery/v2/projects/demo/jobs"
READ = "CreateReadSession"
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
        (JOBS, Failure(403, "quotaExceeded")),
        *((where, Failure(status)) for where in (UPLOAD, DATA) for status in (429, 503)),
        *((where, fault) for where in (UPLOAD, DATA) for fault in (LOST, SLOW)),
        *((CREATE, fault) for fault in (Failure(500), LOST)),
    ],
)
def test_a_write_that_failed_on_the_way_can_be_done_again(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch, where: str, fault: Any
) -> None:
    monkeypatch.setattr(client, "REQUEST_SECONDS", 0.9 if fault == SLOW else 60)
    rows = reports(1, 2)
    way.faults.add(where, fault)
    with pytest.raises(Unavailable, match="is unavailable"):
        place.write(REPORTS, [rows])
    monkeypatch.undo()
    assert place.write(REPORTS, [rows]).rows == 2
    assert stored(place, REPORTS) == rows.to_pylist()


@pytest.mark.parametrize(
    "fault", [Failure(503, "backendError"), Failure(403, "rateLimitExceeded"), LOST, CUT]
)
@pytest.mark.parametrize("where", [JOBS, RESULTS])
def test_a_request_about_a_job_is_tried_again(place: BigQuery, way: Faulty, where: str, fault: Any) -> None:
    way.faults.add(where, fault)
    # BigQuery knows a job's id; the emulator runs a job again that it has run.
    assert place.write(REPORTS, [reports(1)]).rows in (
        (0, 1) if (where, fault) in ((JOBS, LOST), (JOBS, CUT)) else (1,)
    )
    assert stored(place, REPORTS) == reports(1).to_pylist()


def test_a_transaction_that_met_another_runs_again_without_a_second_load(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.RERUN, "_initial", 0.01)
    way.faults.add(JOBS, CONFLICT, CONFLICT)
    assert place.write(REPORTS, [reports(1)]).rows == 1
    assert [sum(each in seen for seen in way.seen) for each in (JOBS, DATA)] == [3, 1]


def test_a_table_that_is_changed_too_often_is_changed_later(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.RERUN, "_initial", 0.01)
    way.faults.add(
        JOBS, Failure(400, "invalidQuery", "Exceeded rate limits: too many table update operations")
    )
    assert place._query("SELECT 1") == [(1,)]


def test_transactions_that_meet_others_all_the_time_are_left_for_later(
    place: BigQuery, way: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RERUN", client.RERUN.with_timeout(0.1).with_delay(0.01))
    way.faults.add(JOBS, *[CONFLICT] * 100)
    with pytest.raises(Unavailable, match="concurrent update"):
        place.write(REPORTS, [reports(1)])


def test_a_read_that_fails_on_the_way_can_be_done_again(place: BigQuery, way: Faulty) -> None:
    place.write(REPORTS, [reports(1)])
    way.faults.add(READ, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable, match="is unavailable"):
        stored(place, REPORTS)
    assert stored(place, REPORTS) == reports(1).to_pylist()


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        (
            JOBS,
            Failure(403, "accessDenied", "You may not"),
            "refuses the request: You may not; give the account the roles BigQuery Data",
        ),
        (
            JOBS,
            Failure(401, "authError", "Who are you"),
            "there are no credentials for bigquery://.*; run `gcloud auth",
        ),
        (JOBS, Failure(404, "notFound", "no dataset"), "no dataset; check the project and the dataset"),
        (JOBS, Failure(400, "invalidQuery", "Syntax"), "refuses the request: Syntax"),
        (UPLOAD, Failure(403, "accessDenied"), "refuses the request: .*injected; give the account the roles"),
    ],
)
def test_what_will_never_be_taken_is_refused_with_cause_and_fix(
    place: BigQuery, way: Faulty, where: str, fault: Any, message: str
) -> None:
    way.faults.add(where, fault)
    with pytest.raises(Refused, match=message):
        place.write(REPORTS, [reports(1)])


def test_an_inbox_that_cannot_be_deleted_is_left_to_expire(place: BigQuery, way: Faulty) -> None:
    way.faults.add("DELETE", Failure(403, "accessDenied"))
    assert place.write(REPORTS, [reports(1)]).rows == 1


def test_rows_that_bigquery_does_not_load_are_a_fault_of_the_rows(place: BigQuery) -> None:
    rows = pa.table({"report_id": ["r1"], "recorded_at": ["no time"]})
    with pytest.raises(client.NotLoadedError):
        place._client.load(new_inbox(place._place, REPORTS), rows, "US")


@pytest.mark.parametrize(
    ("reason", "error"),
    [("invalid", client.NotLoadedError), ("tableUnavailable", Unavailable), ("resourcesExceeded", Refused)],
)
def test_a_load_job_that_fails_for_another_reason_is_no_fault_of_a_row(
    place: BigQuery, monkeypatch: pytest.MonkeyPatch, reason: str, error: type
) -> None:
    def fail(self: Any, **_: Any) -> None:
        raise exceptions.BadRequest("the job failed", errors=[{"reason": reason, "message": "it failed"}])

    monkeypatch.setattr(LoadJob, "result", fail)
    with pytest.raises(error) as caught:
        place.write(REPORTS, [reports(1)])
    assert isinstance(caught.value, client.NotLoadedError) == (reason == "invalid")


def test_a_row_that_bigquery_does_not_load_is_refused_and_its_neighbours_are_stored(
    place: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = client.Client.load

    def load_all_but_r2(self: client.Client, table: Any, rows: pa.Table, location: str) -> None:
        if "custom_metrics" in rows.column_names and "r2" in rows["report_id"].to_pylist():
            raise client.NotLoadedError("this row is too odd")
        load(self, table, rows, location)

    monkeypatch.setattr(client.Client, "load", load_all_but_r2)
    assert write_or_quarantine(place, REPORTS, [reports(1, 2, 3)]).rows == 3
    assert {row["report_id"] for row in stored(place, REPORTS)} == {"r1", "r3"}
    assert [(row["message_id"], row["reason"], row["message"]) for row in stored(place, QUARANTINED)] == [
        ("2-0", "refused", "NotLoadedError: this row is too odd")
    ]


def test_rows_of_no_message_that_bigquery_does_not_load_are_refused_by_the_output(
    place: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: client.Client, table: Any, rows: pa.Table, location: str) -> None:
        raise client.NotLoadedError("these rows are too odd")

    monkeypatch.setattr(client.Client, "load", load)
    window = {"granularity": "5s", "agent_id": "a", "time_window_start": NOON, "revision": 1}
    with pytest.raises(Refused, match="too odd"):
        write_or_quarantine(place, AGGREGATIONS, [batch(AGGREGATIONS, window)])


def test_a_service_that_refuses_every_row_is_not_asked_for_each(
    place: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(self: client.Client, table: Any, rows: pa.Table, location: str) -> None:
        asked.append(rows.num_rows)
        raise client.NotLoadedError("these rows are too odd")

    monkeypatch.setattr(client.Client, "load", load)
    with pytest.raises(Refused, match="too odd"):
        write_or_quarantine(place, REPORTS, [reports(*range(1000))])
    assert len(asked) < 250


def test_a_table_that_is_gone_is_refused(place: BigQuery) -> None:
    place._client.rest.delete_table(f"{place.dataset}.{REPORTS.name}")
    with pytest.raises(Refused, match="start the job again, which creates missing tables"):
        place.write(REPORTS, [reports(1)])


def test_a_dataset_that_is_gone_is_refused(way: Faulty) -> None:
    with pytest.raises(Refused, match="is gone; start the job again"):
        store(f"d{uuid4().hex}", way).has_reports()


def test_where_nobody_listens_is_tried_later_and_found_by_the_check() -> None:
    nobody = BigQuery(
        "demo", "d", endpoint=f"http://localhost:{free_port()}", storage_endpoint=f"localhost:{free_port()}"
    )
    with pytest.raises(Unavailable, match="is unavailable"):
        nobody.read_description()
    (finding,) = nobody.check()
    assert "is unavailable" in finding.problem


def test_missing_credentials_name_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_expired_credentials_are_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (Expired(), None))
    with pytest.raises(Refused, match=r"have expired \(invalid_grant.*\); run `gcloud auth"):
        BigQuery("expired-project", "d").read_description()


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
    raised = as_sink_error(error, "bigquery://p/d")
    assert type(raised) is verdict
    assert "bigquery://p/d" in str(raised)
    assert "\n" not in str(raised)
