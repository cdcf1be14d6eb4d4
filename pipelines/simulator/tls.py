"""TLS of the simulator."""

import ssl
from pathlib import Path

from pipelines.listening import make_server_context


def make_context(
    certificate: Path, key: Path, client_ca: Path | None = None, tls12: bool = False
) -> ssl.SSLContext:
    """The context of a server with PEM files. With `client_ca` each client needs a certificate it signed.

    TLS 1.3 only; `tls12`: TLS 1.2 only, for a test of a client that must refuse it.

    Raises:
        OSError: a file cannot be used (an `ssl.SSLError` is one).
    """
    context = make_server_context(certificate, key, client_ca)
    if tls12:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
