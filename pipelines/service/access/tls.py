"""TLS of the service: the context follows its files, and each new connection is checked with the newest."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from cryptography import x509

from pipelines.followed_files import FollowedFiles
from pipelines.listening import make_server_context
from pipelines.service.access.certificates import (
    ClientCertificate,
    Trust,
    now_utc,
    parse_certificate,
)
from pipelines.service.access.subject import Unidentified
from transforms.core.events import FILES_NOT_USED


class _FollowingContext(ssl.SSLContext):
    """A context each of whose connections is made by the newest one."""

    find_current: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.find_current().wrap_bio(*args, **kwargs)


@dataclass(frozen=True)
class ServiceFiles:
    """PEM files: the certificate and key of the service, the authorities of clients, what they revoked."""

    certificate: Path
    key: Path
    client_ca: Path
    client_crl: Path | None = None


class ServiceTls:
    """The context of the service, and what its connections show of their clients."""

    def __init__(self, files: ServiceFiles, now: Callable[[], datetime] = now_utc) -> None:
        self._files, self._now = files, now
        paths = [files.certificate, files.key, files.client_ca]
        paths += [] if files.client_crl is None else [files.client_crl]
        self._trusts: WeakKeyDictionary[ssl.SSLContext, Trust] = WeakKeyDictionary()
        self._followed = FollowedFiles(paths, self._make, FILES_NOT_USED)

    @property
    def problem(self) -> str | None:
        """Why new files are not used."""
        return self._followed.problem

    def make_context(self) -> ssl.SSLContext:
        """The context to listen with.

        Raises:
            OSError, ValueError: a file cannot be used.
        """
        self._followed.current()
        context = _FollowingContext(ssl.PROTOCOL_TLS_SERVER)
        context.find_current = self._followed.current
        return context

    def read_client(self, connection: ssl.SSLObject | None) -> ClientCertificate:
        """The certificate of a client, which still counts: not expired, not revoked, of a known authority.

        Raises:
            Unidentified: there is none, or it counts no longer.
        """
        der = None if connection is None else connection.getpeercert(binary_form=True)
        if connection is None or not der:
            raise Unidentified("no certificate was shown")
        found, now = parse_certificate(der), self._now()
        if not found.parsed.not_valid_before_utc <= now < found.until:
            raise Unidentified("the certificate has expired, or is not valid yet")
        trust = self._trusts[self._followed.current()]
        if self._trusts.get(connection.context) is not trust:
            trust.refuse(found.parsed, now)
        trust.refuse_revoked(found.parsed, now)
        return found

    def list_ends(self) -> dict[str, datetime]:
        """When the certificate of the service and those of the authorities end.

        Raises:
            OSError, ValueError: a file cannot be read.
        """
        own = x509.load_pem_x509_certificates(self._files.certificate.read_bytes())[0]
        ends = {"server": own.not_valid_after_utc}
        for each in self._trusts[self._followed.current()].authorities:
            ends[each.subject.rfc4514_string()] = each.not_valid_after_utc
        return ends

    def _make(self) -> ssl.SSLContext:
        files = self._files
        context = make_server_context(
            files.certificate, files.key, files.client_ca, client_crl=files.client_crl, is_optional=True
        )
        self._trusts[context] = Trust.read(files.client_ca, files.client_crl)
        return context
