"""The page of the service and its files: HTML, styles and ES modules, kept in memory, with a version each."""

import hashlib
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import NamedTuple

from aiohttp import web

from pipelines.service.errors import HttpError
from pipelines.service.exchange import Exchange

START = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do: load files and routes of this service, and no inline script or style."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    body: bytes
    type: str
    tag: str


async def show_page(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The page."""
    return _answer(request, START)


async def show_page_file(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """A file of the page."""
    return _answer(request, request.match_info["file"])


def _answer(request: web.Request, name: str) -> web.StreamResponse:
    found = read_files().get(name)
    if found is None:
        raise HttpError(HTTPStatus.NOT_FOUND, "the page has no such file", "GET / has the page")
    # A browser keeps a file, and asks each time whether it is still the newest.
    headers = {
        "ETag": f'"{found.tag}"',
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": POLICY,
    }
    if any(each.value in (found.tag, "*") for each in request.if_none_match or ()):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return web.Response(body=found.body, content_type=found.type, charset="utf-8", headers=headers)


@cache
def read_files() -> dict[str, _File]:
    """The files of the page by name. There are no others that a request can name."""
    found = {}
    for each in files("pipelines.service.page").iterdir():
        kind = _TYPES.get("." + each.name.rpartition(".")[2])
        if kind is not None:
            body = each.read_bytes()
            found[each.name] = _File(body, kind, hashlib.sha256(body).hexdigest()[:32])
    return found
