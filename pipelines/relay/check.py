"""Whether a relay could read Layer 4: certificates, reachability, clock."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp

from pipelines.relay.errors import Layer4Refused, Layer4Unavailable
from pipelines.relay.export import ExportPage, ExportReader, as_layer4_error
from pipelines.relay.handshake import read_expiry
from pipelines.relay.page_order import PageWindow
from pipelines.relay.session import open_session
from pipelines.relay.tls import Tls, TlsFiles, check_url
from transforms.core.errors import Finding

LEAST_DAYS = 7
"""A certificate that expires sooner is a problem."""
_SECONDS = 10.0


def check_layer4(
    export: str, live: str | None, files: TlsFiles | None, clock_seconds: float
) -> Iterator[Finding]:
    """What a relay needs of Layer 4. Its clock may differ from ours by so many seconds."""
    what = "the URLs and the certificates can be used"
    try:
        check_url(export, ("https", "http"), files is not None)
        if live is not None:
            check_url(live, ("wss", "ws"), files is not None)
        tls = Tls(files)
        tls.current()
    except Layer4Refused as error:
        yield Finding.of(what, error)
        return
    yield Finding(what)
    if files is not None:
        yield judge_expiry(read_expiry(files.certificate), datetime.now(UTC))
    what = "the export answers"
    try:
        page = asyncio.run(_read_page(export, tls))
        yield Finding(what)
        yield judge_clock(page, time.time(), clock_seconds)
    except (Layer4Refused, Layer4Unavailable) as error:
        yield Finding.of(what, error)
        return
    if live is not None:
        what = "the socket opens"
        try:
            asyncio.run(_open_socket(live, tls))
            yield Finding(what)
        except (Layer4Refused, Layer4Unavailable) as error:
            yield Finding.of(what, error)


def judge_expiry(until: datetime, now: datetime) -> Finding:
    """Whether our certificate is valid for some days more."""
    days = (until - now).total_seconds() / 86_400
    what = f"our certificate is valid for {LEAST_DAYS} days or more"
    if days >= LEAST_DAYS:
        return Finding(what)
    problem = f"it has expired on {until:%Y-%m-%d}" if days < 0 else f"it expires in {days:.1f} days"
    return Finding(what, problem, "replace the files of --certificate and --key; a relay takes the new ones")


def judge_clock(page: ExportPage, now: float, most: float) -> Finding:
    """Whether the clock of Layer 4 is as ours."""
    what = f"the clock of Layer 4 is within {most:g} s of ours"
    if page.timestamp is None:
        return Finding(what, "the export's timestamp cannot be read", "it must be an RFC 3339 date-time")
    ahead = page.timestamp - now
    if abs(ahead) <= most:
        return Finding(what)
    where = "ahead" if ahead > 0 else "behind"
    return Finding(what, f"it is {abs(ahead):,.0f} s {where}", "synchronise both clocks (NTP)")


async def _read_page(url: str, tls: Tls) -> ExportPage:
    async with open_session() as session:
        return await ExportReader(url, tls, session, lambda _: None).fetch_once(PageWindow(1, 1))


async def _open_socket(url: str, tls: Tls) -> None:
    async with open_session() as session:
        try:
            async with asyncio.timeout(_SECONDS):
                socket = await session.ws_connect(url, ssl=tls.current() or True)
                await socket.close()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise await as_layer4_error(error, url, tls) from error
