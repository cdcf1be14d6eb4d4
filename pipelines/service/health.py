"""The probes: does the process answer, and can it answer questions."""

import asyncio
from typing import Any

from aiohttp import web
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from pipelines.failures import Failure
from pipelines.service.exchange import Exchange
from pipelines.service.service import Service
from pipelines.verify.output_description import read_row_settings


async def say_alive(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """Whether the process answers."""
    return web.json_response({"alive": True})


async def say_ready(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """Whether the output can be read; 503 with the reasons if not."""
    reasons = await asyncio.to_thread(_find_reasons, exchange.service)
    answer: dict[str, Any] = {"ready": not reasons, "reasons": reasons}
    if warnings := exchange.service.guards.find_problems():
        answer["warnings"] = warnings  # what was there before still works
    return web.json_response(answer, status=503 if reasons else 200)


async def show_metrics(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The metrics of the service."""
    body = exchange.service.guards.counts.format()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _find_reasons(service: Service) -> list[str]:
    try:
        minutes = read_row_settings(service.folder, "served")["file_minutes"]
    except Failure as error:
        return [str(error)]
    if minutes != service.file_minutes:
        return ["the output was replaced by one with other file_minutes; start the service again"]
    if not service.has_index.is_set():
        return ["the index of tasks is being made"]
    live = service.live
    problems = [live.problem] if live is not None and live.problem else []
    if not service.guards.counts.is_audit_written():
        problems.append("the audit cannot be written; the log says why")
    return problems
