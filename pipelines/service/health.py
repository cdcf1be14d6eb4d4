"""The probes: does the process answer, and can it answer questions."""

import asyncio

from aiohttp import web

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
    return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)


def _find_reasons(service: Service) -> list[str]:
    try:
        minutes = read_row_settings(service.folder, "served")["file_minutes"]
    except Failure as error:
        return [str(error)]
    if minutes != service.file_minutes:
        return ["the output was replaced by one with other file_minutes; start the service again"]
    live = service.live
    problems = [live.problem] if live is not None and live.problem else []
    return problems + service.guards.find_problems()
