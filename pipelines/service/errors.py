"""Answers that are errors: JSON with what is wrong and what to do about it."""

import json
import re
from http import HTTPStatus

from aiohttp import web

from pipelines.failures import Failure, WrongUse
from pipelines.queries.stop import QueryStopped

_OPTION = re.compile(r"--([a-z][a-z-]*)")
BUSY_SECONDS = 1
"""How long a client should wait where too many queries run."""


class HttpError(Exception):
    """A request is refused: `str()` says why, `fix` what to do about it."""

    def __init__(
        self, status: int, message: str, fix: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.fix, self.headers = HTTPStatus(status), fix, headers or {}


def as_http_error(error: Failure) -> HttpError:
    """A failure of a query as the answer of a request. What it says of options is said of parameters."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, WrongUse):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(error, QueryStopped):
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    return HttpError(status, _name_parameters(str(error)), _name_parameters(error.fix))


def make_error_response(error: HttpError) -> web.Response:
    """The answer of an error."""
    body = json.dumps({"error": str(error), "fix": error.fix}) + "\n"
    return web.Response(
        status=error.status, text=body, content_type="application/json", headers=error.headers
    )


def _name_parameters(text: str) -> str:
    """A text in which `--memory-mb` is `memory_mb`."""
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), text)
