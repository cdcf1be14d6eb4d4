"""The one table of routes: the server, the OpenAPI document, the access rules and the tests walk it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from pipelines.service.comparisons import compare
from pipelines.service.exchange import Exchange
from pipelines.service.export import export
from pipelines.service.health import say_alive, say_ready, show_metrics
from pipelines.service.marks import Mark, mark
from pipelines.service.openapi import show_document
from pipelines.service.page_files import show_page, show_page_file
from pipelines.service.query_answers import answer_query, list_queries
from pipelines.service.status import show_status
from pipelines.service.stream import stream

Handler = Callable[[web.Request, Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One route.

    `action`: what access and audit call it. `is_open`: for probes, which show no certificate; nothing is
    checked or recorded. `says_audit`: it is answered also while the audit cannot be written, since it says
    so. `takes`: the type of the JSON that is sent to it.
    """

    method: str
    path: str
    handler: Handler
    action: str
    summary: str
    is_open: bool = False
    says_audit: bool = False
    takes: type[msgspec.Struct] | None = None


ROUTES = (
    Route("GET", "/healthz", say_alive, "probe", "Whether the process answers.", is_open=True),
    Route("GET", "/readyz", say_ready, "probe", "Whether the output can be read.", is_open=True),
    Route("GET", "/", show_page, "page", "The page for people."),
    Route("GET", "/page/{file}", show_page_file, "page", "A file of the page."),
    Route("GET", "/openapi.json", show_document, "read the document", "This document."),
    Route("GET", "/metrics", show_metrics, "metrics", "Metrics for Prometheus.", says_audit=True),
    Route("GET", "/queries", list_queries, "list queries", "The named queries, with their parameters."),
    Route("GET", "/query/{name}", answer_query, "query", "A page of a named query."),
    Route("GET", "/kpi/status", show_status, "status", "What became of all messages, by hour too."),
    Route("GET", "/kpi/compare", compare, "query", "The variants of an experiment beside its control."),
    Route("GET", "/kpi/export", export, "export", "Reports in numbered pages."),
    Route("GET", "/kpi/stream", stream, "stream", "Live reports, as a WebSocket."),
    Route("POST", "/kpi/marks", mark, "mark", "Mark a flagged value as verified or false.", takes=Mark),
)
