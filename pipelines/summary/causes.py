"""Why messages were rejected: rows of quarantine, counted by cause."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipelines.console import escape_line
from schemas.kinds import REPORT_KIND

CAUSE = ("kind", "reason", "field", "rule")
MESSAGE_SHOWN = 100
"""Characters of the message of a rejection that are shown."""


def count_causes(
    batches: Iterable[pa.RecordBatch],
) -> tuple[Counter[tuple[str, ...]], dict[tuple[str, ...], dict[str, Any]]]:
    """How many rows of quarantine have each CAUSE, and a row of each."""
    counts: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], dict[str, Any]] = {}
    for rows in batches:
        for row in rows.select(["source", "message_id", *CAUSE, "message"]).to_pylist():
            cause = tuple(row[name] or "" for name in CAUSE)
            counts[cause] += 1
            examples.setdefault(cause, row)
    return counts, examples


def has_records(kinds: Iterable[str]) -> bool:
    """Whether some messages are not reports, so that their kinds are worth showing."""
    return any(kind != REPORT_KIND.schema for kind in kinds)


def describe_causes(rows: pa.RecordBatch) -> Iterator[str]:
    """A line for each cause of rejection, with an abridged example; the most frequent cause comes first."""
    counts, examples = count_causes([rows])
    shown = CAUSE if has_records(cause[0] for cause in counts) else CAUSE[1:]
    for cause, count in counts.most_common():
        example = examples[cause]
        name, message = f"{example['source']}/{example['message_id']}", example["message"] or ""
        abridged = message if len(message) <= MESSAGE_SHOWN else f"{message[:MESSAGE_SHOWN]}..."
        causes = " ".join(filter(None, cause[-len(shown) :]))
        yield escape_line(f"{count:,} {causes}, such as {name}: {abridged}")
