"""Proves that every message has exactly one fate, from the tables and, if given, from the source of the
messages.

A message in several tables has the fate of the first of reports, duplicates, quarantine; a replay or a
restart can leave a row in a later one. A row that only points to a report is no fate if that report is not
stored: a quarantine row that a replay closed, or a duplicate. Its message is missing, whether the source is
given or not. A dismissed quarantine row is a fate as long as the source has its message. After that it only
counts as `dismissed`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs.pending_rows import PendingRows, find_pending_rows
from pipelines.verify.derived_checks import find_derived_problems
from pipelines.verify.file_checks import (
    FATES,
    MESSAGE_KEY,
    REBUILD,
    StoredPrints,
    check_file,
    join_prints,
    load_undamaged,
)
from pipelines.verify.fingerprints import Census, Prints, count_fingerprints, find_among
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.recount import disagreements, hours
from pipelines.verify.table_scan import paths
from schemas.tables import DUPLICATES, FLEET, QUARANTINED, REPORTS, TABLES, TRIMMED
from transforms.core.hashing import fingerprint_rows
from transforms.sources.source import UNCOMMITTED

Unreadable = Callable[[str, str], None]
"""Called with each file of the source that could not be read to its end, and the reason."""
Messages = Callable[[Unreadable], Iterator[pa.RecordBatch]]
"""Reads the source from its beginning, as batches with at least the columns `source` and `message_id`, and
for a stream the boolean column `uncommitted`, else `received_at`.
"""
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Iterates over a sequence and may show progress, like `rich.progress.track`."""

EXAMPLES = 3
GIVE_ALL = (
    "give everything that was read as the source; `kpiflow quarantine dismiss` closes rejected messages that "
    "were corrected there"
)
OPEN_AGAIN = "run `kpiflow quarantine replay`: it opens them again, and accepts corrected ones with --input"
READ_AGAIN = "run `kpiflow backfill` over the source again"
GO_ON = "run `kpiflow stream` as before, with --until-idle if it is to end by itself"


@dataclass
class Verdict:
    """Counts of messages, and the problems.

    received = reports + quarantined + duplicates + missing + uncommitted - surplus.

    - dismissed: dismissed messages that the source no longer has (without a source: all dismissed ones). They
      count neither as received nor as quarantined.
    - uncommitted: messages of a stream without a fate after the committed offset; the job continues there.
    - missing: other messages without a fate. The source has them, or a row points to a report that is gone.
    - surplus: fates without a message in the source, and further reports of one message.
    - trimmed: entries that left their stream before they were read; gaps: how often their number is unknown.
    - unreadable: files of the source that could not be read to their end.
    - waiting: windows, not messages, that lack their newest reports until the stream continues.
    """

    reports: int = 0
    quarantined: int = 0
    duplicates: int = 0
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
    def received(self) -> int:
        """Distinct messages of the source. Without a source, as many as the tables say."""
        return (
            self.reports + self.quarantined + self.duplicates + self.missing + self.uncommitted - self.surplus
        )

    def add_problem(
        self,
        found: Prints,
        batches: Iterable[pa.RecordBatch],
        text: str,
        fix: str,
        names: Sequence[str] = MESSAGE_KEY,
    ) -> None:
        """Report fingerprints that were found, if any, with examples from the rows of `batches`."""
        if len(found):
            self.problems.append(f"{len(found)} {text} ({_quote_examples(batches, names, found)}); {fix}")

    def as_json(self) -> dict[str, Any]:
        """The counts in the order of the command's documentation, then the problems."""
        counts = {"received": self.received} | asdict(self)
        del counts["gaps"]
        return counts


def reconcile(
    output: Path,
    messages: Messages | None = None,
    track: Track = lambda sequence, _: sequence,
    streams: Sequence[str] | None = None,
    read_again: str = READ_AGAIN,
    home: Path | None = None,
) -> Verdict:
    """Check an output to which no run is writing, against itself and against the source that `messages`
    reads.

    `home` is the folder with the state of the stream that wrote it, if not the output. Lost entries are
    counted of `streams`, or of all. `read_again` is the fix for messages without a fate.

    Raises:
        WrongUse: there is no output, or a newer kpiflow wrote it.
    """
    verdict, prints = Verdict(), StoredPrints()
    file_minutes = read_row_settings(output)["file_minutes"]
    every = [(table, path) for table in (*TABLES.values(), FLEET, TRIMMED) for path in paths(output, table)]
    for table, path in track(every, "files"):
        check_file(output, table, path, file_minutes, verdict.problems, prints)
    left = find_pending_rows(home or output)
    _check_windows(output, left, prints.damaged, verdict, track)
    dangling = _check_reports(output, prints, verdict, read_again)
    _count_fates(output, prints, dangling, messages, left, verdict, read_again)
    _count_trimmed(output, prints, streams, verdict)
    if not prints.damaged:
        verdict.problems += find_derived_problems(output)
    return verdict


def _check_windows(
    output: Path, left: PendingRows | None, damaged: set[Path], verdict: Verdict, track: Track
) -> None:
    """Count each window again from its reports. What a stopped stream still has to write is not a problem."""
    fix = f"{GO_ON}; if it still differs then, {REBUILD}" if left else REBUILD
    for hour in track(hours(output, damaged), "hours"):
        found = disagreements(output, hour, damaged, left)
        verdict.problems += [f"{line}; {fix}" for line in found.differences]
        verdict.waiting += found.waiting


def _check_reports(output: Path, prints: StoredPrints, verdict: Verdict, read_again: str) -> Prints:
    """Check that each report_id is stored once, and that each duplicate has its report.

    Returns the report_ids of duplicates without one.
    """
    twice, dangling = [], []
    for distinct, counts in count_fingerprints(
        [join_prints(prints.reports[table.name]) for table in (REPORTS, DUPLICATES)]
    ):
        twice.append(distinct[counts[:, 0] > 1])
        dangling.append(distinct[(counts[:, 0] == 0) & (counts[:, 1] > 0)])
    for found, table, text, fix in (
        (join_prints(twice), REPORTS, "report_ids are in kpi_reports more than once", REBUILD),
        (
            join_prints(dangling),
            DUPLICATES,
            "report_ids are in duplicates but not in kpi_reports",
            read_again,
        ),
    ):
        rows = load_undamaged(output, table, ["report_id"], prints.damaged)
        verdict.add_problem(found, rows, text, fix, ("report_id",))
    return join_prints(dangling)


def _count_trimmed(
    output: Path, prints: StoredPrints, streams: Sequence[str] | None, verdict: Verdict
) -> None:
    for rows in load_undamaged(output, TRIMMED, ["source", "entries"], prints.damaged):
        if streams is not None:
            rows = rows.filter(pc.is_in(rows["source"], pa.array(streams, pa.string())))
        verdict.trimmed += pc.sum(rows["entries"]).as_py() or 0
        verdict.gaps += rows["entries"].null_count


def _count_fates(
    output: Path,
    prints: StoredPrints,
    dangling: Prints,
    messages: Messages | None,
    left: PendingRows | None,
    verdict: Verdict,
    read_again: str,
) -> None:
    """Fill in the counts, and name messages that have no fate, more than one, or no source."""
    unreadable: dict[str, str] = {}
    sets, uncommitted = _list_sets(prints, dangling), join_prints([])
    if messages is not None:
        source, uncommitted = _read_source(messages(unreadable.__setitem__), left)
        sets.append(source)
    odd = [_find_odd(part, verdict, sourced=messages is not None) for part in count_fingerprints(sets)]
    missing, gone, orphans, *several = (join_prints(found) for found in zip(*odd))
    pending = find_among(missing, uncommitted)
    verdict.uncommitted, missing = int(pending.sum()), missing[~pending]
    verdict.missing -= verdict.uncommitted
    verdict.unreadable = len(unreadable)
    verdict.problems += [
        f"{file} could not be read to its end: {why}; get it whole" for file, why in unreadable.items()
    ]
    stored = [load_undamaged(output, table, MESSAGE_KEY, prints.damaged) for table in FATES]
    quarantined = load_undamaged(output, QUARANTINED, MESSAGE_KEY, prints.damaged)
    replayed = "messages left quarantine by a replay, but their reports are gone"
    verdict.add_problem(missing, _read_again(messages), "messages of the source have no fate", read_again)
    verdict.add_problem(gone, quarantined, replayed, OPEN_AGAIN)
    verdict.add_problem(orphans, chain(*stored), "messages have a fate but are not in the source", GIVE_ALL)
    for found, table in zip(several, FATES):
        rows = load_undamaged(output, table, MESSAGE_KEY, prints.damaged)
        verdict.add_problem(found, rows, f"messages are in {table.name} more than once", REBUILD)


def _list_sets(prints: StoredPrints, dangling: Prints) -> list[Prints]:
    """Messages of FATES without dangling duplicates, then those of closed, dangling and dismissed rows."""
    reports, duplicates, quarantined = (join_prints(prints.messages[table.name]) for table in FATES)
    dangles = find_among(join_prints(prints.reports[DUPLICATES.name]), dangling)
    closed, dismissed = join_prints(prints.closed), join_prints(prints.dismissed)
    return [reports, duplicates[~dangles], quarantined, closed, duplicates[dangles], dismissed]


def _read_source(batches: Iterator[pa.RecordBatch], left: PendingRows | None) -> tuple[Prints, Prints]:
    """Fingerprints of the messages of a source, and of those after the committed offset.

    A stream tells which these are. Of its archive they are the ones that the stopped job may still have to
    write.
    """
    every, late = [], []
    for rows in batches:
        every.append(fingerprint_rows([rows[name] for name in MESSAGE_KEY]))
        if UNCOMMITTED in rows.schema.names:
            late.append(every[-1][np.asarray(rows[UNCOMMITTED])])
        elif left is not None:
            late.append(every[-1][left.among(rows)])
    return join_prints(every), join_prints(late)


def _find_odd(part: Census, verdict: Verdict, sourced: bool) -> list[Prints]:
    """Add a part of the messages to the counts, and return those with a problem.

    First those of the source without a fate, then those whose replayed report is gone, those without a
    source, and those that are more than once in each table of FATES.
    """
    prints, counts = part
    reported, duplicate, refused, closed, dangling, dismissed = (
        counts[:, kind] > 0 for kind in range(len(FATES) + 3)
    )
    fated = reported | duplicate | refused
    absent = counts[:, -1] == 0 if sourced else np.ones(len(prints), dtype=bool)
    withdrawn = dismissed & ~reported & ~duplicate & absent
    orphan = fated & absent & ~withdrawn if sourced else np.zeros(len(prints), dtype=bool)
    verdict.dismissed += int(withdrawn.sum())
    verdict.reports += int(counts[:, 0].sum())
    verdict.duplicates += int((duplicate & ~reported).sum())
    verdict.quarantined += int((refused & ~duplicate & ~reported & ~withdrawn).sum())
    verdict.surplus += int((counts[reported, 0] - 1).sum() + orphan.sum())
    verdict.missing += int((~fated).sum())
    counts[:, FATES.index(QUARANTINED)] += counts[:, len(FATES)]
    missing, gone = ~fated & ~closed & ~dangling, ~fated & closed
    return [
        prints[missing],
        prints[gone],
        prints[orphan],
        *(prints[counts[:, kind] > 1] for kind in range(len(FATES))),
    ]


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


def _read_again(messages: Messages | None) -> Iterator[pa.RecordBatch]:
    yield from messages(lambda file, why: None) if messages else ()
