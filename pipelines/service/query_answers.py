"""The named queries over HTTP: their list, and the answer of one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from pipelines.failures import Failure, WrongUse
from pipelines.queries.formats import FORMATS
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import Parameter, ParameterKind, Query
from pipelines.queries.registry import QUERIES, find_query
from pipelines.queries.run import Answer, Part, run_query
from pipelines.queries.stop import Stop
from pipelines.service.access.query_rights import QueryRights, choose_columns, list_given
from pipelines.service.content_types import CONTENT_TYPES, choose_format
from pipelines.service.errors import HttpError, as_http_error
from pipelines.service.exchange import Exchange
from pipelines.time_flags import parse_span
from transforms.core.time_range import Span

USUAL_ROWS = 100
OF_ALL = (
    Parameter("from", "only rows at or after this time", kind=ParameterKind.TIME),
    Parameter("to", "only rows before this time", kind=ParameterKind.TIME),
    Parameter("limit", "rows of a page, at most", kind=ParameterKind.INTEGER, default=USUAL_ROWS),
    Parameter("cursor", "continue after the page that had this cursor"),
    Parameter("format", "form of the rows, in place of the header Accept", choices=tuple(FORMATS)),
    Parameter("seconds", "stop the query after so long", kind=ParameterKind.NUMBER),
    Parameter("memory_mb", "stop the query if it needs more memory", kind=ParameterKind.INTEGER),
)
"""What every query takes beside its own parameters."""
_LONGEST_CURSOR = 8000


async def list_queries(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """All queries with their parameters and columns."""
    return web.json_response({"queries": [_describe(query) for query in QUERIES.values()]})


async def answer_query(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """A page of a query."""
    try:
        query = find_query(request.match_info["name"])
    except WrongUse as error:
        raise HttpError(404, str(error), error.fix) from error
    form = choose_format(request)
    try:
        given = _list_given(request)
        asked = query.parse({name: text for name, text in given.items() if name not in _NAMES})
        span = parse_span(given.get("from"), given.get("to"))
        limits = _choose_limits(given, exchange.service.limits)
        chosen = choose_columns(query, list_given(query, asked), exchange.rights)

        def work(stop: Stop) -> tuple[Answer, bytes]:
            answer = _run(exchange, query, chosen, asked, span, limits, given.get("cursor"), stop)
            return answer, FORMATS[form](answer)

        answer, body = await exchange.service.pool.run(work)
    except Failure as error:
        raise as_http_error(error) from error
    exchange.rows = answer.rows.num_rows
    headers = _make_headers(request, answer)
    return web.Response(body=body, content_type=CONTENT_TYPES[form], headers=headers)


def _run(
    exchange: Exchange,
    query: Query,
    chosen: QueryRights,
    asked: Mapping[str, Any],
    span: Span,
    limits: QueryLimits,
    cursor: str | None,
    stop: Stop,
) -> Answer:
    service, rights = exchange.service, exchange.rights
    masks, name = rights.masks, exchange.subject.name
    if cursor is not None and chosen.masked:
        cursor = masks.open_cursor(cursor, name)
    part = Part(chosen.columns, chosen.row_conditions)
    answer = run_query(
        service.folder,
        query,
        asked,
        span,
        service.file_minutes,
        limits,
        cursor,
        stop,
        part=part,
        means=service.means,
    )
    following = answer.cursor
    if following is not None and chosen.masked:
        following = masks.seal_cursor(following, name)
    rows = chosen.mask(answer.rows, rights)
    return replace(answer, rows=rows, cursor=following, withheld=chosen.withheld)


_NAMES = frozenset(each.name for each in OF_ALL)


def _list_given(request: web.Request) -> dict[str, str]:
    """The parameters of the URL.

    Raises:
        WrongUse: one is given twice, or is too long.
    """
    given: dict[str, str] = {}
    for name, text in request.query.items():
        if name in given:
            raise WrongUse(f"{name[:50]} is given twice", "give it once")
        given[name] = text
    for each in OF_ALL:
        if each.name in given and each.name != "cursor":
            each.parse(given[each.name])
    if len(given.get("cursor", "")) > _LONGEST_CURSOR:
        raise WrongUse("this is not a cursor of this query", "copy it whole from the page before")
    return given


def _choose_limits(given: Mapping[str, str], most: QueryLimits) -> QueryLimits:
    """The limits of a query: as asked for, within those of the service."""
    rows = int(given.get("limit", min(USUAL_ROWS, most.rows)))
    seconds = float(given.get("seconds", most.seconds))
    memory_mb = int(given.get("memory_mb", most.memory_mb))
    for name, value, least, largest in (
        ("limit", rows, 1, most.rows),
        ("seconds", seconds, 0.001, most.seconds),
        ("memory_mb", memory_mb, 16, most.memory_mb),
    ):
        if not least <= value <= largest:
            raise WrongUse(f"{name} cannot be {value}", f"give {least} to {largest}")
    return replace(most, rows=rows, seconds=seconds, memory_mb=memory_mb)


def _make_headers(request: web.Request, answer: Answer) -> dict[str, str]:
    """What JSON says in its body, for the other formats too."""
    headers = {"Kpiflow-Cut": "false" if answer.cursor is None else "true"}
    if answer.cursor is not None:
        again = urlencode(
            [*((k, v) for k, v in request.query.items() if k != "cursor"), ("cursor", answer.cursor)]
        )
        headers |= {"Kpiflow-Cursor": answer.cursor, "Link": f'<{request.path}?{again}>; rel="next"'}
    if answer.withheld:
        headers["Kpiflow-Withheld"] = ", ".join(answer.withheld)
    return headers


def _describe(query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "summary": query.summary,
        "parameters": [describe_parameter(each) for each in query.parameters],
        "columns": query.columns.names,
        "order": [f"{each.column} {'desc' if each.descending else 'asc'}" for each in query.order],
    }


def describe_parameter(parameter: Parameter) -> dict[str, Any]:
    """A parameter as JSON: what is not said is absent."""
    facts: dict[str, Any] = {
        "name": parameter.name,
        "summary": parameter.summary,
        "kind": parameter.kind.value,
        "required": parameter.required,
    }
    if parameter.choices:
        facts["choices"] = list(parameter.choices)
    if parameter.default is not None:
        facts["default"] = parameter.default
    return facts
