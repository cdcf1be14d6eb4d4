"""TLS to Layer 4: version 1.3, a certificate of this client, an authority to trust, and what was revoked.

The files are read again when they change, so new certificates are used without a restart. What is wrong is
said in words that name the cause.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pipelines.followed_files import FollowedFiles
from pipelines.listening import is_loopback
from pipelines.relay.errors import Layer4Refused
from transforms.core.events import CERTIFICATES_NOT_USED

_CAUSES = {
    3: "there is no list of revoked certificates by its authority; give one that has it with --crl",
    9: "its certificate is not valid yet; check the clocks",
    10: "its certificate has expired; give it a new one",
    12: "the list of revoked certificates has expired; replace the file of --crl",
    18: "its certificate was signed by itself, not by the authority of --ca; name the authority of Layer 4",
    19: "its certificate was not signed by the authority of --ca; name the authority of Layer 4",
    20: "its certificate was not signed by the authority of --ca; name the authority of Layer 4",
    21: "its certificate was not signed by the authority of --ca; name the authority of Layer 4",
    23: "its certificate was revoked; give it a new one",
    62: "its certificate has another name; use the name that is in it, or give it one with this name",
    64: "its certificate has another address; use the name that is in it, or give it one with this address",
}
"""By OpenSSL's X509_V_ERR codes."""
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it asks for a certificate of this client; give --certificate and --key",
    "HANDSHAKE_FAILURE": "it asks for a certificate of this client; give --certificate and --key",
    "UNKNOWN_CA": "it does not trust the authority of our certificate; give one that its authority signed",
    "CERTIFICATE_EXPIRED": "our certificate has expired; replace the files of --certificate and --key",
    "CERTIFICATE_REVOKED": "our certificate was revoked; replace the files of --certificate and --key",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate; give another one",
    "BAD_CERTIFICATE": "it does not accept our certificate; give another one",
    "DECRYPT_ERROR": "it cannot verify our certificate; give --certificate and --key that belong together",
    "ACCESS_DENIED": "our certificate has no access; ask for the role of a consumer",
    "PROTOCOL_VERSION": "it does not speak TLS 1.3; upgrade it",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3; upgrade it",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; correct the port",
    "HTTP_REQUEST": "it does not speak TLS; correct the port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS; correct the port",
}
"""By what the reason of an SSLError ends with."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: this client's certificate and key, whom to trust, and what was revoked."""

    certificate: Path
    key: Path
    ca: Path
    crl: Path | None = None

    def list_paths(self) -> list[Path]:
        """The files that there are."""
        return [path for path in (self.certificate, self.key, self.ca, self.crl) if path is not None]

    def make_context(self) -> ssl.SSLContext:
        """The context of a client.

        Raises:
            Layer4Refused: a file is missing or not as it must be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        option, path = "--ca", self.ca
        try:
            context.load_verify_locations(self.ca)
            option, path = "--certificate and --key", self.certificate
            context.load_cert_chain(self.certificate, self.key)
            if self.crl is not None:
                option, path = "--crl", self.crl
                context.load_verify_locations(self.crl)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        except (OSError, ssl.SSLError) as error:
            fix = f"give {option} PEM files that belong together"
            raise Layer4Refused(f"{path} cannot be used: {error}; {fix}") from error
        return context


class Tls:
    """The context for new connections; none for plain HTTP."""

    def __init__(self, files: TlsFiles | None) -> None:
        self.files = files
        errors = (OSError, Layer4Refused)
        self._followed = files and FollowedFiles(
            files.list_paths(), files.make_context, CERTIFICATES_NOT_USED, errors
        )

    @property
    def problem(self) -> str | None:
        """Why files that have changed are not used."""
        return self._followed.problem if self._followed else None

    def current(self) -> ssl.SSLContext | None:
        """The context of the files as they are now. If they cannot be used, that is logged, and it is the one
        from before.

        Raises:
            Layer4Refused: they cannot be used, and never could.
        """
        try:
            return self._followed.current() if self._followed else None
        except OSError as error:
            raise Layer4Refused(str(error)) from error


def check_url(url: str, schemes: tuple[str, str], has_files: bool) -> None:
    """Check a URL: TLS with certificates, or plain on this machine.

    Raises:
        Layer4Refused: it is neither. `schemes`: with TLS, without.
    """
    secure, plain = schemes
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise Layer4Refused("a URL of Layer 4 has no user and password; give --certificate and --key")
    if parts.scheme not in schemes or not parts.hostname or not _has_valid_port(parts):
        raise Layer4Refused(f"{url} is no URL of Layer 4; give {secure}://HOST:PORT/PATH")
    if parts.scheme == plain and not is_loopback(parts.hostname):
        raise Layer4Refused(f"{url} would be read without TLS; give {secure}://, or a Layer 4 on 127.0.0.1")
    if parts.scheme == secure and not has_files:
        raise Layer4Refused(f"{url} needs certificates; give --certificate, --key and --ca")


def explain_tls(error: BaseException) -> str | None:
    """What is wrong with TLS, as `problem; fix`, if an error or one of its causes says so."""
    for found in _list_causes(error):
        if type(found) is ssl.SSLCertVerificationError:
            default = f"its certificate is not accepted ({found.verify_message}); give it a valid one"
            return _CAUSES.get(found.verify_code, default)
        if type(found) is ssl.SSLError:
            reason = found.reason or ""
            default = f"TLS fails ({reason or found}); check both sides"
            return next((text for sign, text in _ALERTS.items() if reason.endswith(sign)), default)
    return None


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes. aiohttp's own errors are derived from those of `ssl`, but say less."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False
