"""What each request passes before and after its handler: who asks, how often, what is allowed, the record.

Without a policy and an audit they allow everything: so they are for a service that listens on the loopback
only, without TLS.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.rate_limit import RateLimit
from pipelines.service.access.counts import AccessCounts, RefusalLimit
from pipelines.service.access.masks import Masks
from pipelines.service.access.policy import Policy, Rights, decide
from pipelines.service.access.subject import Forbidden, Subject, Unidentified
from pipelines.service.access.tls import ServiceTls
from pipelines.service.audit.log import AuditLog
from pipelines.service.audit.writer import AuditUnavailable
from schemas.access import CLASSES

__all__ = [
    "AuditUnavailable",
    "Entry",
    "Forbidden",
    "Guards",
    "Rights",
    "Subject",
    "Unidentified",
    "make_guards",
    "make_local_guards",
    "record",
]
LOCAL = Subject("local", "optimization-admin", frozenset(CLASSES))
"""The subject of every request of a service without TLS."""


class Decider(Protocol):
    """The roles of subjects."""

    def decide(self, subject: Subject, action: str) -> Rights:
        """The rights of a subject in an action.

        Raises:
            Forbidden: it may not do this at all.
        """
        ...


class Entry(Protocol):
    """The record of one request, which has begun."""

    def note(self, rows: int) -> None:
        """Record that it goes on."""
        ...

    def end(self, rows: int, outcome: str) -> None:
        """Record how it ended."""
        ...


class Audit(Protocol):
    """The record of all requests."""

    async def begin(self, subject: Subject, action: str, object: Any) -> Entry:
        """Record that a request begins.

        Raises:
            AuditUnavailable: that is not possible.
        """
        ...

    async def refuse(self, subject: Subject, action: str, object: Any, status: int, reason: str) -> None:
        """Record that a request was refused.

        Raises:
            AuditUnavailable: that is not possible.
        """
        ...


class _LocalPolicy:
    def __init__(self) -> None:
        self._masks = Masks(secrets.token_bytes(32))

    def decide(self, subject: Subject, action: str) -> Rights:
        return decide(subject, action, self._masks)


class _NoEntry:
    def note(self, rows: int) -> None:
        pass

    def end(self, rows: int, outcome: str) -> None:
        pass


class _NoAudit:
    async def begin(self, subject: Subject, action: str, object: Any) -> Entry:
        return _NoEntry()

    async def refuse(self, subject: Subject, action: str, object: Any, status: int, reason: str) -> None:
        pass


def _identify_as_local(transport: asyncio.BaseTransport | None) -> Subject:
    return LOCAL


def _admit_all(subject: Subject) -> int:
    return 0


def _find_nothing() -> list[str]:
    return []


@dataclass(frozen=True)
class Guards:
    """The guards of a service.

    `admit` counts a request of a subject: 0, or the seconds until it may ask. `find_problems`: which new
    files are not used, for everybody to read.
    """

    identify: Callable[[asyncio.BaseTransport | None], Subject] = _identify_as_local
    admit: Callable[[Subject], int] = _admit_all
    policy: Decider = field(default_factory=_LocalPolicy)
    audit: Audit = field(default_factory=_NoAudit)
    find_problems: Callable[[], list[str]] = _find_nothing
    counts: AccessCounts = field(default_factory=AccessCounts)
    refusals: RefusalLimit = field(default_factory=RefusalLimit)


async def record(audit: Audit, subject: Subject, action: str, object: Any, *, is_needed: bool) -> Entry:
    """Record that a request begins. One whose record is not needed goes on without it.

    Raises:
        AuditUnavailable: that is not possible.
    """
    try:
        return await audit.begin(subject, action, object)
    except AuditUnavailable:
        if is_needed:
            raise
        return _NoEntry()


def identify(transport: asyncio.BaseTransport | None, policy: Policy, tls: ServiceTls) -> Subject:
    """The subject of a connection, by its certificate.

    Raises:
        Unidentified: it shows none, or none that counts.
    """
    connection = None if transport is None else transport.get_extra_info("ssl_object")
    return policy.find_subject(tls.read_client(connection))


def make_local_guards(audit: AuditLog) -> Guards:
    """The guards of a service without TLS that has an audit."""
    return Guards(audit=audit, counts=AccessCounts(is_audit_written=lambda: audit.problem is None))


def make_guards(tls: ServiceTls, policy: Policy, audit: AuditLog) -> Guards:
    """The guards of a service with TLS."""
    limit = RateLimit()

    def find_problems() -> list[str]:
        found = {"certificates": tls.problem, "roles": policy.problem}
        return [f"new {what} are not used; the log says why" for what, problem in found.items() if problem]

    return Guards(
        lambda transport: identify(transport, policy, tls),
        lambda subject: limit.admit(subject.certificate or subject.name),
        policy,
        audit,
        find_problems,
        AccessCounts(tls.list_ends, lambda: audit.problem is None, lambda: policy.problem is None),
    )
