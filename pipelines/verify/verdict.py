"""What `kpiflow reconcile` found: counts of messages, and the problems."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.verify.fingerprints import Prints, find_among
from schemas.kinds import KINDS, REPORT_KIND
from schemas.tables import MESSAGE_KEY
from transforms.core.counts import format_count
from transforms.core.hashing import fingerprint_rows

EXAMPLES = 3


@dataclass
class KindFates:
    """The messages of a kind, by their fate."""

    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0


@dataclass
class Reconciliation:
    """Counts of messages, and the problems.

    received = reports + records + quarantined + duplicates + expired + missing + uncommitted - surplus.

    - reports, records, quarantined, duplicates: the sums of `kinds`, which are the fates by kind. Records are
      the stored messages of all kinds but reports.
    - expired: messages whose row has expired, or would lie in what has; without a source, those of which
      another row still tells.
    - dismissed: dismissed messages that the source no longer has (without a source: all dismissed ones). They
      count neither as received nor as quarantined.
    - uncommitted: messages of a stream without a fate after the committed offset; the job continues there.
    - missing: other messages without a fate. The source has them, or a row points to a report or record that
      is gone.
    - surplus: fates without a message in the source, and further reports or records of one message.
    - trimmed: entries that left their stream before they were read; gaps: how often their number is unknown.
    - unreadable: files of the source that could not be read to their end.
    - waiting: windows, not messages, that lack their newest reports until the stream continues.
    """

    kinds: dict[str, KindFates] = field(default_factory=dict)
    expired: int = 0
    dismissed: int = 0
    missing: int = 0
    surplus: int = 0
    trimmed: int = 0
    unreadable: int = 0
    uncommitted: int = 0
    waiting: int = 0
    problems: list[str] = field(default_factory=list)
    gaps: int = 0

    @property
    def reports(self) -> int:
        """Rows of kpi_reports."""
        return self.of_kind(REPORT_KIND.schema).stored

    @property
    def records(self) -> int:
        """Rows of the tables of records."""
        return sum(each.stored for each in self.kinds.values()) - self.reports

    @property
    def quarantined(self) -> int:
        """Messages whose fate is quarantine."""
        return sum(each.quarantined for each in self.kinds.values())

    @property
    def duplicates(self) -> int:
        """Messages whose fate is a row of duplicates."""
        return sum(each.duplicates for each in self.kinds.values())

    @property
    def received(self) -> int:
        """Distinct messages of the source. Without a source, as many as the tables say."""
        fates = self.reports + self.records + self.quarantined + self.duplicates
        return fates + self.expired + self.missing + self.uncommitted - self.surplus

    def of_kind(self, kind: str) -> KindFates:
        """The counts of a kind, to read or to add to."""
        return self.kinds.setdefault(kind, KindFates())

    def add_problem(
        self,
        found: Prints,
        batches: Iterable[pa.RecordBatch],
        noun: str,
        text: str,
        fix: str,
        names: Sequence[str] = MESSAGE_KEY,
    ) -> None:
        """Report fingerprints that were found, if any, with examples from the rows of `batches`.

        `noun`: what a fingerprint is of, singular; `text`: what is wrong.
        """
        if len(found):
            examples = _quote_examples(batches, names, found)
            self.problems.append(f"{format_count(len(found), noun)} {text} ({examples}); {fix}")

    def as_json(self) -> dict[str, Any]:
        """The counts in the order of the command's documentation, the fates by kind, then the problems."""
        sums = ("received", "reports", "records", "quarantined", "duplicates")
        own = asdict(self)
        del own["gaps"]
        problems, kinds = own.pop("problems"), own.pop("kinds")
        ordered = {
            name: kinds[name] for name in (*KINDS, *kinds) if name in kinds and any(kinds[name].values())
        }
        return {name: getattr(self, name) for name in sums} | own | {"kinds": ordered, "problems": problems}


def _quote_examples(batches: Iterable[pa.RecordBatch], names: Sequence[str], wanted: Prints) -> str:
    """A few of the wanted rows, as text."""
    wanted = wanted[:EXAMPLES]
    found: dict[str, None] = {}
    for rows in batches:
        hits = rows.select(names).filter(
            pa.array(find_among(fingerprint_rows([rows[name] for name in names]), wanted))
        )
        found |= dict.fromkeys(" ".join(str(value) for value in row.values()) for row in hits.to_pylist())
        if len(found) == len(wanted):
            break
    return "e.g. " + ", ".join(found)
