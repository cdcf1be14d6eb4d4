"""Counts of live reports by second: what a page draws, in place of every report.

A browser that shows rates needs no reports. At 10,000 reports a second it would get and parse 15 MB a second;
the counts are one small message a second at any rate.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import orjson

from pipelines.service.live import StreamEntry, format_id

COUNT_SECONDS = 0.5
"""A socket of counts gets a message at most so often."""
_FAILURE = "error_details"


def write_counts(entries: Sequence[StreamEntry], withheld: Collection[str]) -> Iterator[bytes]:
    """The messages for some entries, in order: one for all entries up to the next gap, and one for a gap.

    A second is that of the entries' ids. Of a second: `reports`; of these `failed`, if the column that says
    so is not withheld; and `flagged`, those with an outlier.
    """
    for is_gap, group in groupby(entries, key=lambda entry: entry.gap is not None):
        part = list(group)
        if is_gap:
            yield from (each.write(True, ()) for each in part)
        else:
            seconds = _count(part, withheld)
            yield orjson.dumps({"type": "counts", "id": format_id(part[-1].id), "seconds": seconds})


def _count(entries: Sequence[StreamEntry], withheld: Collection[str]) -> list[dict[str, Any]]:
    """The counts of each second, in order."""
    found: dict[int, dict[str, int]] = {}
    names = ["reports", "flagged"] + ["failed"] * (_FAILURE not in withheld)
    for entry in entries:
        counts = found.setdefault(entry.id[0] // 1000, dict.fromkeys(names, 0))
        has_failed, is_flagged = entry.outcome
        counts["reports"] += 1
        counts["flagged"] += is_flagged
        if "failed" in counts:
            counts["failed"] += has_failed
    return [{"second": second} | counts for second, counts in found.items()]
