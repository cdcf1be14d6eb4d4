"""What was asked and refused, as metrics of the service."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.core import Metric

from pipelines.metrics.families import describe_build, format_page, make_counter, make_gauge
from pipelines.rate_limit import SECONDS
from pipelines.service.access.certificates import now_utc

REFUSALS = 60
_MOST_KEYS = 10_000


class RefusalLimit:
    """Bounds the lines of refusals in the audit, which anybody can cause."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[tuple[str, str, int], _Refusals] = {}

    def count(self, name: str, host: str, status: int) -> int | None:
        """Count a refusal: how many were not recorded before it, or None if it need not be either.

        Of a subject, host and status REFUSALS are recorded in any SECONDS, and then the next with the number
        of those between.
        """
        now = self._monotonic()
        if len(self._seen) > _MOST_KEYS:
            self._seen = {key: each for key, each in self._seen.items() if each.until > now}
        found = self._seen.setdefault((name, host, status), _Refusals(now + SECONDS))
        if found.until <= now:
            found.until, found.recorded = now + SECONDS, 0
        if found.recorded >= REFUSALS:
            found.skipped += 1
            return None
        found.recorded += 1
        skipped, found.skipped = found.skipped, 0
        return skipped


@dataclass
class _Refusals:
    until: float
    recorded: int = 0
    skipped: int = 0


def _know_no_ends() -> Mapping[str, datetime]:
    return {}


def _be_true() -> bool:
    return True


@dataclass
class AccessCounts:
    """Counts since the start, and states at a scrape.

    `answers` by role, action and status; `rows` by role and action; `refusals` by status.
    """

    list_ends: Callable[[], Mapping[str, datetime]] = _know_no_ends
    is_audit_written: Callable[[], bool] = _be_true
    is_roles_file_used: Callable[[], bool] = _be_true
    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    def count_answer(self, role: str, action: str, rows: int, outcome: str) -> None:
        """Count an answer that has ended."""
        self.answers[role, action, outcome] += 1
        self.rows[role, action] += rows
        if outcome == "403":
            self.refusals[outcome] += 1

    def format(self) -> bytes:
        """The metrics as OpenMetrics text."""
        return format_page(self._make)

    def _make(self) -> Iterator[Metric]:
        yield describe_build()
        yield make_counter(
            "service_answers", "Answers, by role, action and status.", ("role", "action", "status"),
            self.answers.items(),
        )  # fmt: skip
        yield make_counter(
            "service_rows", "Rows that were sent, by role and action.", ("role", "action"), self.rows.items()
        )
        yield make_counter(
            "service_refusals", "Requests (401, 403, 429) and connections (503) refused.", ("status",),
            (((status,), self.refusals[status]) for status in ("401", "403", "429", "503")),
        )  # fmt: skip
        yield make_gauge(
            "service_audit_written", "1 if the audit can be written.", (), [((), self.is_audit_written())]
        )
        yield make_gauge(
            "service_roles_used", "1 if the newest file of roles is used.", (),
            [((), self.is_roles_file_used())],
        )  # fmt: skip
        now = now_utc()
        yield make_gauge(
            "service_certificate_seconds",
            "Until the certificate of the service, or of an authority of clients, expires.", ("certificate",),
            (((name,), (end - now).total_seconds()) for name, end in self.list_ends().items()),
        )  # fmt: skip
