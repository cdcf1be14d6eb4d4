"""Opens the guards of a service from what the command line names."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from pipelines.failures import RunFailed, WrongUse
from pipelines.service.access.masks import Masks
from pipelines.service.access.policy import Policy
from pipelines.service.access.tls import ServiceFiles, ServiceTls
from pipelines.service.audit.log import AuditLog
from pipelines.service.audit.writer import AuditUnavailable
from pipelines.service.guards import Guards, make_guards, make_local_guards

SECRET = "mask.key"
"""The file of the secret of HMACs and cursors, in the folder of the audit."""


@dataclass(frozen=True)
class Access:
    """What the command line names: files of TLS, the file of roles, the folder of the audit, its writer."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    client_crl: Path | None = None
    roles: Path | None = None
    audit: Path | None = None
    writer: str | None = None

    def open(self) -> tuple[Guards, ssl.SSLContext, AuditLog]:
        """The guards, the context to listen with, and the audit, which is open.

        Raises:
            WrongUse: something is missing, or a file cannot be used.
            RunFailed: the audit cannot be written.
        """
        if not (self.certificate and self.key and self.client_ca and self.roles and self.audit):
            named = "--certificate, --key, --client-ca, --roles and --audit"
            raise WrongUse(
                "the service needs TLS, roles and an audit",
                f"give {named}; or --insecure-loopback to try it out on 127.0.0.1",
            )
        tls = ServiceTls(ServiceFiles(self.certificate, self.key, self.client_ca, self.client_crl))
        try:
            context = tls.make_context()
        except (OSError, ValueError) as error:
            fix = "give --certificate, --key, --client-ca and --client-crl PEM files that belong together"
            raise WrongUse(f"TLS of the service: {error}", fix) from error
        audit = self.open_audit(self.audit)
        try:
            policy = Policy(self.roles, Masks.open(self.audit / SECRET))
            policy.load()
        except (OSError, ValueError) as error:
            audit.close()
            raise WrongUse(f"{self.roles}: {error}", "correct the file of --roles") from error
        except WrongUse:
            audit.close()
            raise
        return make_guards(tls, policy, audit), context, audit

    def open_local(self) -> tuple[Guards, AuditLog | None]:
        """The guards of a service without TLS, and its audit, if there is one.

        Raises:
            WrongUse: files are named that would not be used.
            RunFailed: the audit cannot be written.
        """
        if self.certificate or self.key or self.client_ca or self.client_crl or self.roles:
            raise WrongUse("--insecure-loopback uses no certificates and no roles", "leave one of them out")
        audit = None if self.audit is None else self.open_audit(self.audit)
        return (Guards() if audit is None else make_local_guards(audit)), audit

    def open_audit(self, folder: Path) -> AuditLog:
        """The audit, open.

        Raises:
            RunFailed: it cannot be written.
        """
        audit = AuditLog(folder, self.writer or socket.gethostname())
        try:
            audit.open()
        except AuditUnavailable as error:
            raise RunFailed(f"the audit cannot be written: {error}", "give another --audit") from error
        return audit
