"""What each request passes before and after its handler: who asks, how often, what is allowed, the record.

`pipelines.service.access` and `pipelines.service.audit` fill these roles. The guards of this module allow
everything: they are those of a service that listens on the loopback only, without TLS.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


class Forbidden(Exception):  # noqa: N818 (an answer, not only an error)
    """The subject may not do this; `str()` says what."""


class Unidentified(Exception):  # noqa: N818
    """The client does not show who it is."""


class AuditUnavailable(Exception):  # noqa: N818
    """What is about to happen cannot be recorded, so it must not happen."""


@dataclass(frozen=True)
class Subject:
    """Who asks. `until`: when what identifies it ends."""

    name: str
    role: str
    grants: frozenset[str] = frozenset()
    until: datetime | None = None


class Rights(Protocol):
    """What a subject may do with the columns of tables in one action."""

    def split(self, table: str, columns: Sequence[str]) -> tuple[list[str], list[str]]:
        """The columns it may see, and those that are withheld."""
        ...

    def refuse_use(self, table: str, columns: Sequence[str]) -> None:
        """Raises:
        Forbidden: one of these columns, used by a filter, a sort or a computation, is withheld.
        """
        ...


class Policy(Protocol):
    """The roles of subjects."""

    def decide(self, subject: Subject, action: str) -> Rights:
        """The rights of a subject in an action.

        Raises:
            Forbidden: it may not do this at all.
        """
        ...


class Entry(Protocol):
    """The record of one request, which has begun."""

    def end(self, rows: int, outcome: str) -> None:
        """Record how it ended."""
        ...


class Audit(Protocol):
    """The record of all requests."""

    def begin(self, subject: Subject, action: str, object: str) -> Entry:
        """Record that a request begins.

        Raises:
            AuditUnavailable: that is not possible.
        """
        ...


class _AllRights:
    def split(self, table: str, columns: Sequence[str]) -> tuple[list[str], list[str]]:
        return list(columns), []

    def refuse_use(self, table: str, columns: Sequence[str]) -> None:
        pass


class _OpenPolicy:
    def decide(self, subject: Subject, action: str) -> Rights:
        return _AllRights()


class _NoEntry:
    def end(self, rows: int, outcome: str) -> None:
        pass


class _NoAudit:
    def begin(self, subject: Subject, action: str, object: str) -> Entry:
        return _NoEntry()


def _identify_as_local(transport: asyncio.BaseTransport | None) -> Subject:
    return Subject("local", "optimization-admin")


def _admit_all(subject: Subject) -> int:
    return 0


@dataclass(frozen=True)
class Guards:
    """The guards of a service. `admit` counts a request of a subject: 0, or the seconds until it may ask."""

    identify: Callable[[asyncio.BaseTransport | None], Subject] = _identify_as_local
    admit: Callable[[Subject], int] = _admit_all
    policy: Policy = field(default_factory=_OpenPolicy)
    audit: Audit = field(default_factory=_NoAudit)
