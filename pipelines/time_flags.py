"""What `--from`, `--to` and other flags with a time mean."""

from datetime import UTC, datetime

from pipelines.failures import WrongUse
from transforms.core.time_range import Span


def parse_span(start: str | None, end: str | None) -> Span:
    """The span between two RFC 3339 times; without an offset they are UTC.

    Raises:
        WrongUse: a time cannot be parsed, or the span is empty.
    """
    span = Span(parse_time("--from", start), parse_time("--to", end))
    if span.start and span.end and span.start >= span.end:
        raise WrongUse(f"the span is empty: --from {start} is not before --to {end}")
    return span


def parse_time(flag: str, text: str | None) -> datetime | None:
    """The moment that the value of a flag means; without an offset it is UTC.

    Raises:
        WrongUse: it cannot be parsed.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongUse(f"{flag} {text} is not a date-time", "write it like 2025-10-22T10:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
