"""Layer 4's export, page by page: asked at its pace, and again while it does not answer as it should."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from pipelines.relay.broken_page import list_frames, split_reports
from pipelines.relay.cursor import DIGEST
from pipelines.relay.errors import Layer4Refused, Layer4Unavailable
from pipelines.relay.handshake import find_cause
from pipelines.relay.pace import Pace
from pipelines.relay.page_order import PageWindow
from pipelines.relay.tls import Tls, explain_tls
from transforms.core.process_stats import count_attempt
from transforms.core.retry import retry_without_end

PEER = "layer4"
"""What Layer 4 is called among the peers whose use is counted."""
LARGEST_BODY = 256 << 20
"""Bytes of a page. A larger one is not read."""
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10, sock_read=20)
_TRIES = 3
"""So often a page is asked for before reports in it that are no JSON are taken as they are."""
_LONGEST_WAIT = 300.0
"""However long Layer 4 says that one should wait."""
_REFUSED: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "does not know this client; give it the certificate of a consumer",
    HTTPStatus.FORBIDDEN: "does not allow this client to read; ask for the role of a consumer",
    HTTPStatus.NOT_FOUND: "has no such path; correct the URL",
}


_DIGITS = 15
"""Of a count, at most."""


class _Pagination(msgspec.Struct):
    """What the export says about its pages. The relay relies on none of these numbers: one that cannot
    be read is 0."""

    per_page: Any = 0
    total_count: Any = 0

    def __post_init__(self) -> None:
        self.per_page, self.total_count = _read_count(self.per_page), _read_count(self.total_count)


class _Body(msgspec.Struct):
    kpi_reports: list[msgspec.Raw]
    pagination: _Pagination
    timestamp: object = None


class ExportPage(NamedTuple):
    """A page: each report's own bytes, their digests, and what the export says about itself. `timestamp`:
    its clock, in seconds since 1970; None if it has none. `malformed`: digests of the reports that are no
    JSON."""

    reports: list[bytes]
    digests: list[bytes]
    per_page: int
    total: int
    timestamp: float | None
    malformed: frozenset[bytes] = frozenset()


_decoder = msgspec.json.Decoder(_Body)
_NO_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises: errors of msgspec and of UTF-8, and brackets in brackets too deep."""


def digest_report(report: bytes) -> bytes:
    """What tells a report from others."""
    return blake2b(report, digest_size=DIGEST).digest()


def parse_page(body: bytes) -> ExportPage:
    """A page from the body of a response.

    Raises:
        Layer4Unavailable: it is not as it must be, as when it was cut.
    """
    found = _decode(body)
    return _make_page(found, [bytes(each) for each in found.kpi_reports])


def parse_broken_page(body: bytes) -> ExportPage:
    """A page from a body that is complete, but in which reports are no JSON.

    Raises:
        Layer4Unavailable: more than reports is not as it must be.
    """
    for frame, text in list_frames(body):
        with suppress(Layer4Unavailable):
            page = _make_page(_decode(frame), split_reports(text))
            bad = (key for key, report in zip(page.digests, page.reports) if not _is_json(report))
            return page._replace(malformed=frozenset(bad))
    return parse_page(body)


def _decode(body: bytes) -> _Body:
    try:
        return _decoder.decode(body)
    except _NO_JSON as error:
        text = f"the export's page cannot be read ({error}); it is asked for again"
        raise Layer4Unavailable(text) from None


def _make_page(found: _Body, reports: list[bytes]) -> ExportPage:
    return ExportPage(
        reports,
        [digest_report(each) for each in reports],
        found.pagination.per_page,
        found.pagination.total_count,
        _parse_time(found.timestamp),
    )


def _is_json(report: bytes) -> bool:
    try:
        msgspec.json.decode(report)
    except _NO_JSON:
        return False
    return True


class ExportReader:
    """Reads pages of the export. `notice` is called with what is wrong while a page is asked for again, and
    with None when it is read."""

    def __init__(
        self, url: str, tls: Tls, session: aiohttp.ClientSession, notice: Callable[[str | None], None]
    ) -> None:
        self._url, self._tls, self._session, self._notice = url, tls, session, notice
        self._pace = Pace()
        self._has_answered = False
        self._unreadable = 0  # so many responses in a row
        self._malformed: frozenset[bytes] = frozenset()  # of the last page

    async def fetch(self, window: PageWindow) -> ExportPage:
        """A page, however long that takes.

        Raises:
            Layer4Refused: it refuses this client, or TLS does, at the first request. Later ones are repeated.
        """
        async for attempt in retry_without_end(self._notice):
            with attempt:
                return await self.fetch_once(window)
        raise AssertionError("attempts have no end")

    async def fetch_once(self, window: PageWindow) -> ExportPage:
        """A page, if it can be read now.

        Raises:
            Layer4Refused: as `fetch` does.
            Layer4Unavailable: it cannot be read now.
        """
        await self._pace.wait()
        try:
            page = self._parse(await self._get(window))
        except (Layer4Refused, Layer4Unavailable) as error:
            count_attempt(PEER, failed=True)
            if isinstance(error, Layer4Refused) and self._has_answered:
                raise Layer4Unavailable(str(error)) from error
            raise
        count_attempt(PEER)
        self._has_answered = True
        self._notice(None)
        return page

    def _parse(self, body: bytes) -> ExportPage:
        """A page. Reports that are no JSON are taken if that is so at several tries: what is wrong is not the
        way, but the reports."""
        try:
            page = parse_page(body)
        except Layer4Unavailable:
            self._unreadable += 1
            page = parse_broken_page(body)
            if self._unreadable < _TRIES and not page.malformed <= self._malformed:
                raise
        self._unreadable, self._malformed = 0, page.malformed
        return page

    async def _get(self, window: PageWindow) -> bytes:
        params = {"page": window.page, "per_page": window.per_page}
        context = self._tls.current()
        try:
            async with self._session.get(
                self._url, params=params, ssl=context or True, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                _check_status(response)
                return await _read_body(response)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise await as_layer4_error(error, self._url, self._tls) from error


async def as_layer4_error(error: BaseException, url: str, tls: Tls) -> Layer4Refused | Layer4Unavailable:
    """What an error of a connection means. TLS is refused; all else may pass."""
    place = urlsplit(url).netloc
    said = explain_tls(error)
    if said is None and tls.files is not None and isinstance(error, aiohttp.ClientConnectionError):
        said = await asyncio.to_thread(find_cause, url, tls.files)
    if said is not None:
        return Layer4Refused(f"Layer 4 at {place}: {said}")
    if isinstance(error, asyncio.TimeoutError):
        return Layer4Unavailable(f"Layer 4 at {place} does not answer in time; it is asked again")
    return Layer4Unavailable(
        f"Layer 4 at {place} cannot be reached ({str(error) or type(error).__name__}); it is asked again"
    )


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == HTTPStatus.OK:
        return
    place = urlsplit(str(response.url)).netloc
    if text := _REFUSED.get(response.status):
        raise Layer4Refused(f"Layer 4 at {place} {text}")
    pause = _parse_retry_after(response.headers.get("Retry-After", ""))
    raise Layer4Unavailable(f"Layer 4 at {place} answers {response.status}; it is asked again", pause)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_BODY:
            raise Layer4Unavailable(f"a page has more than {LARGEST_BODY >> 20} MiB; make reports smaller")
        parts.append(part)
    return b"".join(parts)


def _read_count(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, int | float) and 0 <= value < 10**_DIGITS:
        return int(value)
    return 0


def _parse_retry_after(text: str) -> float | None:
    """Seconds to wait; None if the text does not say so."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None


def _parse_time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except (ValueError, OverflowError):
        return None
