"""/kpi/export: the reports in pages by number, as Layer 4 exports them.

A page is cut from a snapshot: the reports that there were at one moment. Its name is in every page; a request
that gives it back gets a page of the same snapshot. Without one the page is cut from what there is now. What
is new is always behind what was there before, so pages that are full never change.
"""

import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

import orjson
from aiohttp import web

from pipelines.failures import Failure, WrongUse
from pipelines.queries.stop import Stop
from pipelines.service.arrivals import ExportSnapshot, OrderEnded
from pipelines.service.errors import HttpError, as_http_error
from pipelines.service.exchange import Exchange
from pipelines.service.report_json import COLUMNS, format_report, list_reports
from schemas.tables import REPORTS

LARGEST_PAGE = 1000
USUAL_PAGE = 100
PARAMETERS = {
    "page": "number of the page, from 1",
    "per_page": f"reports of a page: {USUAL_PAGE} unless given, at most {LARGEST_PAGE}",
    "snapshot": "the snapshot of a page before",
}


class _Request(NamedTuple):
    page: int
    per_page: int
    snapshot: str | None


async def export(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """A page of the export."""
    arrivals = exchange.service.arrivals
    columns, withheld = exchange.rights.split(REPORTS.name, COLUMNS)

    def work(stop: Stop) -> tuple[int, bytes]:
        snapshot = arrivals.take() if asked.snapshot is None else arrivals.parse_snapshot(asked.snapshot)
        start = (asked.page - 1) * asked.per_page
        rows = arrivals.read(snapshot.name, start, min(start + asked.per_page, snapshot.total), columns)
        reports = [format_report(row, withheld) for row in list_reports(rows)]
        name = arrivals.format_snapshot(snapshot)
        return len(reports), _format_page(reports, asked, snapshot, name, withheld)

    try:
        asked = _parse(request)
        exchange.rows, body = await exchange.service.pool.run(work)
    except OrderEnded as error:
        raise HttpError(
            HTTPStatus.GONE, "this snapshot has ended", "begin at page 1, without a snapshot"
        ) from error
    except Failure as error:
        raise as_http_error(error) from error
    return web.Response(body=body, content_type="application/json")


def _parse(request: web.Request) -> _Request:
    query = request.query
    for name in query:
        if name not in PARAMETERS or len(query.getall(name)) > 1:
            known = ", ".join(PARAMETERS)
            raise WrongUse(f"the export cannot use {name[:50]} so", f"give {known}, each once")
    per_page = _parse_number("per_page", query.get("per_page", str(USUAL_PAGE)))
    if per_page > LARGEST_PAGE:
        raise WrongUse(f"per_page cannot be {per_page}", f"give at most {LARGEST_PAGE}")
    return _Request(_parse_number("page", query.get("page", "1")), per_page, query.get("snapshot"))


def _parse_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise WrongUse(f"{name} cannot be {text[:50]}", "give a number from 1 on")
    return int(text)


def _format_page(
    reports: list[bytes], asked: _Request, snapshot: ExportSnapshot, name: str, withheld: list[str]
) -> bytes:
    page = {
        "timestamp": datetime.fromtimestamp(int(time.time()), UTC),
        "kpi_reports": [orjson.Fragment(report) for report in reports],
        "pagination": {
            "page": asked.page,
            "per_page": asked.per_page,
            "total_pages": -(-snapshot.total // asked.per_page),
            "total_count": snapshot.total,
        },
        "snapshot": name,
    }
    return orjson.dumps(page | ({"withheld": withheld} if withheld else {}), option=orjson.OPT_UTC_Z)
