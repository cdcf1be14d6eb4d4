"""POST /kpi/marks: somebody has looked at a flagged value of a report, and says whether it is right."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import orjson
import pyarrow as pa
from aiohttp import web

from pipelines.failures import Failure, RunFailed
from pipelines.queries.formats import list_rows
from pipelines.queries.limits import QueryLimits
from pipelines.queries.open_files import explain_storage_errors
from pipelines.queries.query import LONGEST_TEXT, Order, Parameter, Query, QueryInput
from pipelines.queries.run import run_query
from pipelines.queries.stop import Stop
from pipelines.service.errors import HttpError, as_http_error
from pipelines.service.exchange import Exchange
from schemas.marks import FLAGS, LONGEST_NOTE, MARKS, VERDICTS
from schemas.tables import REPORTS
from transforms.core.errors import OutputFull
from transforms.core.time_range import Span
from transforms.sinks.parquet.mark_files import add_mark

_MICROSECOND = timedelta(microseconds=1)
_REPORT = Query(
    "marked-report",
    "the report of an id, with what can be marked",
    (QueryInput("reports", REPORTS),),
    "SELECT * FROM reports",
    pa.schema(
        [
            REPORTS.schema.field(name)
            for name in ("report_id", "agent_id", "task_id", "recorded_at", *FLAGS, *FLAGS.values())
        ]
    ),
    (Order("report_id"),),
    (Parameter("report_id", "the report", "report_id = $report_id", required=True),),
)


class Mark(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request. `recorded_at`: of the report, if it is known: only its file is read then."""

    report_id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_TEXT)]
    column: Literal[tuple(FLAGS)]  # type: ignore[valid-type]
    verdict: Literal[VERDICTS]  # type: ignore[valid-type]
    note: Annotated[str, msgspec.Meta(max_length=LONGEST_NOTE)] | None = None
    recorded_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    @property
    def span(self) -> Span:
        """When the report was recorded, as far as it is known."""
        moment = self.recorded_at
        return Span() if moment is None else Span(moment, moment + _MICROSECOND)

    def __post_init__(self) -> None:
        for text in (self.report_id, self.note or ""):
            text.encode()  # an error if it is half a character
        assert self.span  # an error if the year is the last one


async def mark(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """Keep a mark: 201 with the mark as it is kept, or 200 if it was kept before."""
    exchange.rights.refuse_use(REPORTS.name, _REPORT.columns.names)
    exchange.rights.refuse_use(MARKS.name, MARKS.schema.names)
    asked = _parse(request, exchange.body)
    try:
        kept, is_new = await exchange.service.pool.run(lambda stop: _keep(exchange, asked, stop))
    except Failure as error:
        raise as_http_error(error) from error
    exchange.rows = 1
    status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return web.Response(status=status, body=orjson.dumps(kept), content_type="application/json")


def _parse(request: web.Request, body: bytes) -> Mark:
    """The mark of a request.

    Raises:
        HttpError: it is no JSON, or not said to be, or not a mark.
    """
    if request.content_type != "application/json":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body is not said to be JSON",
            "send Content-Type: application/json",
        )
    try:
        asked = msgspec.json.decode(body, type=Mark)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        fields = f"column is {' or '.join(FLAGS)}, verdict {' or '.join(VERDICTS)}"
        raise HttpError(
            HTTPStatus.BAD_REQUEST,
            f"this is not a mark: {error}",
            f"give report_id, column and verdict, and a note if you like; {fields}",
        ) from error
    return asked


def _keep(exchange: Exchange, asked: Mark, stop: Stop) -> tuple[dict[str, Any], bool]:
    """The mark as it is kept, as JSON knows it, and whether it is new."""
    report = _find_report(exchange, asked, stop)
    made = {
        "report_id": asked.report_id,
        "column": asked.column,
        "verdict": asked.verdict,
        "note": asked.note,
        "marked_by": exchange.subject.name,
        "value": report[asked.column],
        **{name: report[name] for name in ("agent_id", "task_id", "recorded_at")},
    }
    kept, is_new = _write(exchange.service.folder, made)
    (row,) = list_rows(pa.Table.from_pylist([kept], schema=MARKS.schema))
    return row, is_new


def _find_report(exchange: Exchange, asked: Mark, stop: Stop) -> dict[str, Any]:
    """The report whose value is marked.

    Raises:
        HttpError: there is none, or the value is not flagged.
    """
    service = exchange.service
    limits = QueryLimits(1, service.limits.seconds, service.limits.memory_mb)
    found = run_query(
        service.folder,
        _REPORT,
        {"report_id": asked.report_id},
        asked.span,
        service.file_minutes,
        limits,
        stop=stop,
        means=service.means,
    ).rows.to_pylist()
    if not found:
        raise HttpError(HTTPStatus.NOT_FOUND, "there is no such report", "copy report_id from a query")
    if not found[0][FLAGS[asked.column]]:
        problem = f"{asked.column} of this report is not flagged"
        raise HttpError(HTTPStatus.CONFLICT, problem, f"mark a value of which {FLAGS[asked.column]} is true")
    return found[0]


def _write(output: Path, mark: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """As `add_mark`.

    Raises:
        HttpError: 503, the disk is full, or the service may not write there.
        RunFailed: marks that were kept before cannot be read.
    """
    try:
        with explain_storage_errors():
            return add_mark(output, mark, datetime.now(UTC))
    except OSError as error:
        raise HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the mark cannot be kept: {error.strerror}",
            "let the service write the folder _marks of the output",
        ) from error
    except RunFailed as error:
        if isinstance(error.__cause__, OutputFull):
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), error.fix) from error
        raise
