"""Where a server of kpiflow listens, and its TLS."""

import ssl
from ipaddress import ip_address
from pathlib import Path

from pipelines.failures import WrongUse


def parse_address(text: str, usual_port: int) -> tuple[str, int]:
    """Host and port of HOST:PORT; the host is the loopback if only a port is given.

    Raises:
        WrongUse: it has another form. It names `usual_port` in the fix.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise WrongUse(f"{text} is no address to listen on", f"give HOST:PORT, as 127.0.0.1:{usual_port}")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, reached by itself only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_server_context(
    certificate: Path,
    key: Path,
    client_ca: Path | None = None,
    *,
    client_crl: Path | None = None,
    is_optional: bool = False,
) -> ssl.SSLContext:
    """The context of a server with PEM files, for TLS 1.3.

    Args:
        client_ca: each client needs a certificate that it signed.
        client_crl: the certificates that it revoked.
        is_optional: a client without a certificate gets a connection too, so that it gets an answer.

    Raises:
        OSError: a file cannot be used (an `ssl.SSLError` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # a resumed session would not be verified again
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL if is_optional else ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    if client_crl is not None:
        context.load_verify_locations(client_crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context
