"""Certificates of clients: who issued them, their names, and whether they still count."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pipelines.service.access.subject import Unidentified


@dataclass(frozen=True)
class ClientCertificate:
    """What counts of a certificate. `names`: its alternative names, as the roles file writes them."""

    issuer: str
    names: tuple[str, ...]
    until: datetime
    fingerprint: str
    parsed: x509.Certificate


@lru_cache(maxsize=1024)
def parse_certificate(der: bytes) -> ClientCertificate:
    """A certificate in DER.

    Raises:
        Unidentified: it cannot be read.
    """
    try:
        parsed = x509.load_der_x509_certificate(der)
        names = tuple(_list_names(parsed))
        issuer, until = parsed.issuer.rfc4514_string(), parsed.not_valid_after_utc
    except ValueError as error:
        raise Unidentified(f"the certificate cannot be read: {error}") from error
    return ClientCertificate(issuer, names, until, sha256(der).hexdigest(), parsed)


def _list_names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from (f"DNS:{name.lower()}" for name in names.get_values_for_type(x509.DNSName))
    yield from (f"URI:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier))
    yield from (f"EMAIL:{name.lower()}" for name in names.get_values_for_type(x509.RFC822Name))
    yield from (f"IP:{address}" for address in names.get_values_for_type(x509.IPAddress))


@dataclass(frozen=True, eq=False)
class Trust:
    """The authorities and lists of revoked certificates of one version of the files."""

    authorities: Sequence[x509.Certificate]
    lists: Sequence[x509.CertificateRevocationList] = ()

    @classmethod
    def read(cls, ca: Path, crl: Path | None) -> "Trust":
        """Those of PEM files.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file has another form.
        """
        lists = [] if crl is None else [_read_crl(block) for block in _split_pem(crl.read_bytes())]
        return cls(x509.load_pem_x509_certificates(ca.read_bytes()), lists)

    def refuse(self, certificate: x509.Certificate, now: datetime) -> None:
        """Check a certificate that was verified with an older version of the files.

        Only those that an authority of the file has signed itself are found good. Others are refused here:
        a new connection has them verified again, with all certificates between.

        Raises:
            Unidentified: it is not signed by an authority that counts, or was revoked.
        """
        if not any(_has_signed(each, certificate, now) for each in self.authorities):
            raise Unidentified("the authorities of the service have changed; connect again")
        self.refuse_revoked(certificate, now)

    def refuse_revoked(self, certificate: x509.Certificate, now: datetime) -> None:
        """Check that a certificate is on no list, and that the list of its issuer is not out of date.

        Raises:
            Unidentified: it was revoked, or that is not known.
        """
        for each in self.lists:
            if each.issuer != certificate.issuer:
                continue
            if each.next_update_utc is not None and each.next_update_utc < now:
                raise Unidentified("the list of revoked certificates has expired")
            if each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise Unidentified("the certificate was revoked")


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate, now: datetime) -> bool:
    if not authority.not_valid_before_utc <= now <= authority.not_valid_after_utc:
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _split_pem(data: bytes) -> list[bytes]:
    end = b"-----END X509 CRL-----"
    return [block + end for block in data.split(end)[:-1]]


def _read_crl(block: bytes) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(block[block.index(b"-----BEGIN") :])


def now_utc() -> datetime:
    """The time by the clock of this machine."""
    return datetime.now(UTC)
