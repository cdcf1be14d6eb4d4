"""HTTP requests to a time-series store: the form of its URL, and what answers and broken connections mean."""

import gzip
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult

import httpx

from transforms.core.error_signs import Signs
from transforms.core.errors import Refused, Unavailable

TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def parse_http_url(url: SplitResult, form: str) -> str:
    """Return the URL of the server: what follows the `+` of the scheme, up to host and port.

    Raises:
        ValueError: there is no host, the port is not a number, or a user or password is in it.
    """
    if url.username is not None or url.password is not None:
        raise ValueError(f"user and password are not given in the URL but in the environment; give {form}")
    if not url.hostname or url.fragment:
        raise ValueError(f"give {form}")
    try:
        port = f":{url.port}" if url.port else ""
    except ValueError as error:
        raise ValueError(f"the port is not a number; give {form}") from error
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme.partition('+')[2]}://{host}{port}"


@dataclass(frozen=True)
class HttpServer:
    """A server that `client` talks to; errors name it `place`, and `signs` say which of its errors pass."""

    client: httpx.Client
    place: str
    signs: Signs

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the whole answer if it is final: success, or an error that will not pass, for the caller to
        judge.

        Raises:
            Unavailable: no connection, no answer in time, half an answer, or an error that passes.
            Refused: the certificate is not trusted, or the server redirects.
        """
        try:
            response = self.client.request(method, path, **options)
        except httpx.RequestError as error:
            if _has_untrusted_certificate(error):
                problem = f"{self.place} has a certificate of no trusted authority ({error})"
                raise Refused(f"{problem}; set SSL_CERT_FILE") from error
            problem = f"{self.place} cannot be reached: {str(error) or type(error).__name__}"
            raise Unavailable(problem) from error
        if response.is_error and self.signs.passes(response.status_code, response.text):
            raise Unavailable(f"{self.place} is unavailable: {describe_answer(response)}")
        if response.is_redirect:
            redirect = f"{self.place} redirects to {response.headers.get('location')}"
            raise Refused(f"{redirect}; give the URL of the server itself")
        return response

    def post_lines(self, path: str, params: Mapping[str, str], body: bytes) -> list[httpx.Response]:
        """Send lines, compressed; in halves if the server finds them too large. Return each answer.

        Raises:
            Unavailable, Refused: as `send`.
        """
        headers = {"content-encoding": "gzip", "content-type": "text/plain; charset=utf-8"}
        content = gzip.compress(body, 1)
        response = self.send("POST", path, params=params, content=content, headers=headers)
        middle = body.find(b"\n", len(body) // 2) + 1
        if response.status_code != 413 or not 0 < middle < len(body):
            return [response]
        halves = (body[:middle], body[middle:])
        return [answer for half in halves for answer in self.post_lines(path, params, half)]


def describe_answer(response: httpx.Response) -> str:
    """Return the status of an answer and its first words."""
    return f"{response.status_code} {' '.join(response.text.split())[:500] or response.reason_phrase}"


def _has_untrusted_certificate(error: BaseException | None) -> bool:
    """Whether a certificate caused the error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
