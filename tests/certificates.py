"""Certificates for tests of TLS: an authority, and what it signs, expires and revokes, as PEM files.

    ca = make_ca(folder)
    server = make_certificate(ca, "server")
    client = make_certificate(ca, "client")
    crl = make_crl(ca, revoked=[client])

`make_certificates` makes the usual three at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("localhost",)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """The PEM files of a certificate and of its key."""

    certificate: Path
    key: Path

    def load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """The certificate and its key."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()), key


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, and of a server and a client whose certificates it signed."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """An authority, and certificates for `localhost` and for a client."""
    ca = make_ca(folder)
    server, client = make_certificate(ca, "server"), make_certificate(ca, "client")
    return Certificates(ca.certificate, server.certificate, server.key, client.certificate, client.key)


def make_ca(folder: Path, name: str = "ca") -> Pair:
    """An authority, in the files NAME.pem and NAME.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    built = _begin(name, _name(name), key.public_key(), key.public_key(), expired=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    built = built.add_extension(usage, critical=True)
    return _write(folder / name, built.sign(key, hashes.SHA256()), key)


def make_certificate(
    ca: Pair, name: str, *, hosts: Sequence[str] = HOSTS, expired: bool = False, file: str | None = None
) -> Pair:
    """A certificate of the subject `name` for some names or addresses of `hosts`, signed by `ca`.

    It is written beside the one of the authority, as FILE.pem and FILE.key (`name`, if no file is given). An
    expired one ended a day ago.
    """
    signer, signer_key = ca.load()
    key = ec.generate_private_key(ec.SECP256R1())
    built = _begin(name, signer.subject, key.public_key(), signer_key.public_key(), expired)
    built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    built = built.add_extension(x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False)
    return _write(ca.certificate.parent / (file or name), built.sign(signer_key, hashes.SHA256()), key)


def make_crl(ca: Pair, revoked: Sequence[Pair] = (), file: str = "crl.pem") -> Path:
    """The list of the certificates that `ca` has revoked, as a PEM file beside the authority's."""
    signer, signer_key = ca.load()
    now = datetime.now(UTC)
    built = x509.CertificateRevocationListBuilder(signer.subject, now - _DAY, now + _DAY)
    for each in revoked:
        number = each.load()[0].serial_number
        built = built.add_revoked_certificate(x509.RevokedCertificateBuilder(number, now - _DAY).build())
    path = ca.certificate.parent / file
    path.write_bytes(built.sign(signer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def _begin(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    expired: bool,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(
        issuer,
        _name(name),
        key,
        x509.random_serial_number(),
        now - 3 * _DAY,
        now + (-_DAY if expired else _DAY),
    )
    built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    made = Pair(path.with_suffix(".pem"), path.with_suffix(".key"))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made
