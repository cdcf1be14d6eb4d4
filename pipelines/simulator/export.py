"""The export of the simulator: numbered pages, with the faults that are asked for."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from pipelines.rate_limit import RateLimit
from pipelines.simulator import faults as names
from pipelines.simulator.faults import Faults
from pipelines.simulator.offers import Offers
from pipelines.simulator.pages import USUAL_PAGE, PageRequest, format_page

HANG_SECONDS = 120.0
"""How long a request without an answer is kept open."""
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Content:
    """What a page says: the reports from `found`, and how many there are in how many pages."""

    found: range
    total: int
    pages: int | None = None


class Export:
    """Answers requests. `answers` counts them by status; 504 are those that were left without an answer."""

    def __init__(self, offers: Offers, faults: Faults, limit: RateLimit) -> None:
        self._offers, self._faults, self._limit = offers, faults, limit
        self._requests = 0
        self.answers: Counter[str] = Counter()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        answer = await self._answer(request)
        self.answers[str(answer.status)] += 1
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if wait := self._limit.admit(_name_consumer(request)):
            return _refuse(wait)
        try:
            asked = PageRequest.parse(
                request.query.get("page", "1"), request.query.get("per_page", str(USUAL_PAGE))
            )
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        fault, size = self._faults.choose(self._requests)
        self._requests += 1
        if fault:
            self._faults.given[fault] += 1
        if fault in _ANSWERS:
            return await _ANSWERS[fault](request, self._write(asked, fault, size))
        return web.Response(body=self._write(asked, fault, size), content_type="application/json")

    def _write(self, asked: PageRequest, fault: str, size: float) -> bytes:
        offers = self._offers
        content = choose_content(asked, range(offers.first, offers.end), fault, size)
        reports = offers.read(content.found.start, content.found.stop)
        return format_page(reports, asked, content.total, offers.clock.now(), content.pages)


def choose_content(asked: PageRequest, kept: range, fault: str, size: float) -> Content:
    """What the answer says to a request, where Layer 4 keeps the reports with the numbers `kept`.

    `size` in [0, 1): how much the fault leaves on a page, or by how much it changes the count.
    """
    found, total = asked.find(kept.start, kept.stop), len(kept)
    if fault == names.SHORT:
        return Content(found[: int(size * len(found))], total)
    if fault == names.REPEATED and asked.page > 1:
        return Content(PageRequest(asked.page - 1, asked.per_page).find(kept.start, kept.stop), total)
    if fault == names.FALSE_LAST:
        found = found[: int(size * len(found))]
        return Content(found, (asked.page - 1) * asked.per_page + len(found), asked.page)
    if fault == names.COUNT:
        change = round((size - 0.5) * 6 * asked.per_page) or 1
        return Content(found, max(0, total + change))
    return Content(found, total)


def _refuse(seconds: int) -> web.Response:
    return web.json_response(
        {"error": "too many requests"}, status=429, headers={"Retry-After": str(seconds)}
    )


async def _answer_429(_: web.Request, __: bytes) -> web.StreamResponse:
    return _refuse(1)


async def _answer_500(_: web.Request, __: bytes) -> web.StreamResponse:
    return web.json_response({"error": "internal error"}, status=500)


async def _hang(request: web.Request, _: bytes) -> web.StreamResponse:
    """Answer nothing until the consumer leaves."""
    for _look in range(int(HANG_SECONDS / _LOOK_SECONDS)):
        if request.transport is None or request.transport.is_closing():
            break
        await asyncio.sleep(_LOOK_SECONDS)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=504)  # which nobody gets


async def _cut(request: web.Request, body: bytes) -> web.StreamResponse:
    """Announce the whole body, and close the connection in the middle of it."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.content_length = len(body)
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return answer


_ANSWERS: dict[str, Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]] = {
    names.REFUSED: _answer_429,
    names.FAILED: _answer_500,
    names.TIMEOUT: _hang,
    names.CUT: _cut,
}
"""The faults that are not a page with other content."""


def _name_consumer(request: web.Request) -> str:
    """Who asks: the subject of the client's certificate, or the address."""
    certificate = request.get_extra_info("peercert")
    return str(certificate["subject"]) if certificate else str(request.remote)
