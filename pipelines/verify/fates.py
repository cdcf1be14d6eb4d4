"""Counts the fates of messages, and finds messages that have none, more than one, or no source."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.verify.fingerprints import Census, Prints, count_fingerprints
from pipelines.verify.stored_prints import MessageSets, Row, join_prints
from pipelines.verify.verdict import Reconciliation
from schemas.kinds import KINDS
from schemas.tables import DUPLICATES, QUARANTINED

MISSING, GONE, ORPHANS, SEVERAL_TABLES = "missing", "gone", "orphans", "several tables"
FADED = "faded"
"""Messages of the source without a fate; those whose replayed report or record is gone; those without a
source; and those that are stored in the tables of several kinds. A table's name: those that are in it more
than once. FADED: messages without a fate, whose report or record may have expired."""
Odd = dict[str, Prints]
"""Fingerprints of messages with a problem, by problem."""


def count_fates(sets: MessageSets, source: Prints | None, verdict: Reconciliation) -> Odd:
    """Count the fates of all messages into the verdict, and return those with a problem.

    `source` has the messages of the source, if it is known.
    """
    columns = list(sets)
    of_source = join_prints([]) if source is None else source
    found: defaultdict[str, list[Prints]] = defaultdict(list)
    for part in count_fingerprints([*sets.values(), of_source]):
        for problem, prints in _FateCounts(part, columns, source is not None).count(verdict).items():
            found[problem].append(prints)
    return {problem: join_prints(prints) for problem, prints in found.items()}


class _FateCounts:
    """A part of the messages, and how often each occurs in each of the sets `columns`, and in the source."""

    def __init__(self, part: Census, columns: Sequence[tuple[Row, str]], sourced: bool) -> None:
        self.prints, self.counts = part
        self.columns, self.sourced = columns, sourced

    def count(self, verdict: Reconciliation) -> Odd:
        stored = self._sum(Row.STORED)
        is_stored, is_duplicate = stored > 0, self._sum(Row.DUPLICATE) > 0
        is_rejected, is_closed = self._sum(Row.REJECTED) > 0, self._sum(Row.CLOSED) > 0
        fated = is_stored | is_duplicate | is_rejected
        absent = self.counts[:, -1] == 0 if self.sourced else np.ones(len(self.prints), dtype=bool)
        withdrawn = (self._sum(Row.DISMISSED) > 0) & ~is_stored & ~is_duplicate & absent
        orphan = fated & absent & ~withdrawn if self.sourced else np.zeros(len(self.prints), dtype=bool)
        for _, kind, counts in self._list_counts(Row.STORED):
            verdict.of_kind(kind).stored += int(counts.sum())
        for kind, count in self._count_once(Row.DUPLICATE, ~is_stored):
            verdict.of_kind(kind).duplicates += count
        for kind, count in self._count_once(Row.REJECTED, ~is_stored & ~is_duplicate & ~withdrawn):
            verdict.of_kind(kind).quarantined += count
        verdict.dismissed += int(withdrawn.sum())
        verdict.surplus += int((stored[is_stored] - 1).sum() + orphan.sum())
        verdict.missing += int((~fated).sum())
        faded = ~fated & (self._sum(Row.FADED) > 0)
        unexplained = ~fated & ~faded & ~is_closed & ~(self._sum(Row.DANGLING) > 0)
        gone = ~fated & ~faded & is_closed
        odd = {MISSING: unexplained, GONE: gone, ORPHANS: orphan, FADED: faded} | self._find_repeats(stored)
        return {problem: self.prints[chosen] for problem, chosen in odd.items()}

    def _find_repeats(self, stored: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """bool[n] by table: the messages that are in it more than once; and those in several tables."""
        repeats = {KINDS[kind].table.name: counts > 1 for _, kind, counts in self._list_counts(Row.STORED)}
        once = ~np.logical_or.reduce([*repeats.values(), np.zeros(len(stored), dtype=bool)])
        return repeats | {
            SEVERAL_TABLES: (stored > 1) & once,
            DUPLICATES.name: self._sum(Row.DUPLICATE) > 1,
            QUARANTINED.name: self._sum(Row.REJECTED, Row.CLOSED) > 1,
        }

    def _count_once(self, row: Row, left: NDArray[np.bool_]) -> list[tuple[str, int]]:
        """How many of the messages that are `left` have such a row, by kind; each message counts once."""
        counted = []
        for _, kind, counts in self._list_counts(row):
            here = (counts > 0) & left
            left = left & ~here
            counted.append((kind, int(here.sum())))
        return counted

    def _list_counts(self, *rows: Row) -> list[tuple[Row, str, NDArray[np.int64]]]:
        return [(*each, self.counts[:, place]) for place, each in enumerate(self.columns) if each[0] in rows]

    def _sum(self, *rows: Row) -> NDArray[np.int64]:
        """int64[n]: how many such rows each message has, of all kinds."""
        chosen = [counts for _, _, counts in self._list_counts(*rows)]
        return chosen[0] if len(chosen) == 1 else sum(chosen, np.zeros(len(self.prints), np.int64))
