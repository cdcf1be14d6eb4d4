"""TLS of the simulator."""

import ssl
from pathlib import Path


def make_context(
    certificate: Path, key: Path, client_ca: Path | None = None, tls12: bool = False
) -> ssl.SSLContext:
    """The context of a server with PEM files. With `client_ca` each client needs a certificate it signed.

    TLS 1.3 only; `tls12`: TLS 1.2 only, for a test of a client that must refuse it.

    Raises:
        OSError: a file cannot be used (an `ssl.SSLError` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    version = ssl.TLSVersion.TLSv1_2 if tls12 else ssl.TLSVersion.TLSv1_3
    context.minimum_version = version
    context.maximum_version = version
    context.num_tickets = 0  # a resumed session would not be verified again
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context
