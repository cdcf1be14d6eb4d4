"""Why a connection with TLS breaks: a second, plain connection that finds out.

In TLS 1.3 a server judges the certificate of a client after the client has done its part, and many then close
the connection without a word. What the client library says is "disconnected".
"""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from pipelines.relay.tls import TlsFiles, explain_tls

_SECONDS = 5.0
_REQUEST = b"HEAD / HTTP/1.1\r\nHost: layer4\r\nConnection: close\r\n\r\n"


def read_expiry(path: Path) -> datetime:
    """When the first certificate of a PEM file expires.

    Raises:
        ValueError: there is none.
    """
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def find_cause(url: str, files: TlsFiles) -> str | None:
    """What is wrong with TLS, as `problem; fix`; None if it is something else."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "wss"):
        return None
    place = parts.hostname or "", parts.port or 443
    is_shaken = False
    try:
        with _connect(place, files.make_context()) as connection:
            is_shaken = True
            connection.sendall(_REQUEST)
            if connection.recv(1):
                return None
    except (ssl.SSLError, ConnectionError) as error:
        if said := explain_tls(error):
            return said
    except OSError:
        return None
    if is_shaken:  # only after that a server judges our certificate
        return _judge_own(files)
    return _find_old_version(place, files)


def _find_old_version(place: tuple[str, int], files: TlsFiles) -> str | None:
    context = files.make_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with _connect(place, context):
            return "it does not speak TLS 1.3; upgrade it"
    except OSError:
        return None


def _judge_own(files: TlsFiles) -> str:
    if read_expiry(files.certificate) < datetime.now(UTC):
        return "our certificate has expired; replace the files of --certificate and --key"
    return (
        "it closes the connection when it sees our certificate; give --certificate and --key that its "
        "authority signed and did not revoke"
    )


def _connect(place: tuple[str, int], context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(place, _SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname=place[0])
    except BaseException:
        plain.close()
        raise
