"""Whether every message has exactly one fate, proved from the tables and, if given, from the source the messages came from.

A message that is in several tables has the fate of the first of reports, duplicates, quarantine: what a replay or a restart left
in a later one counts as no fate. A row that only points to a report is no fate without it: a quarantine row that a replay closed,
and a duplicate whose report is not stored. Such a message is missing, whether or not the source is given. A quarantine row that was
dismissed is a fate as long as the source has its message, and after that it counts for nothing but `dismissed`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs.pending_rows import PendingRows, find_pending_rows
from pipelines.verify.fingerprints import Census, Prints, count_fingerprints, find_among
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.recount import disagreements, hours
from pipelines.verify.table_scan import load, paths
from schemas.partitioning import assign_files
from schemas.tables import CLOSED, DISMISSED, DUPLICATES, FLEET, QUARANTINED, REPORTS, TABLES, TRIMMED, Table
from transforms.core.errors import DamagedFile
from transforms.core.grouping import number_groups
from transforms.core.hashing import fingerprint_rows
from transforms.sinks.parquet.sealed_files import verify_file
from transforms.sources.source import UNCOMMITTED

Unreadable = Callable[[str, str], None]
"""Called with a file of the source that could not be read to its end, and why."""
Messages = Callable[[Unreadable], Iterator[pa.RecordBatch]]
"""Reads the source from its beginning: batches with (at least) columns `source`, `message_id`, and where the source is a stream the
boolean column `uncommitted`, else `received_at`."""
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Walks through a sequence and may show how far it is, as `rich.progress.track` does."""

MESSAGE_KEY = ("source", "message_id")
FATES = (REPORTS, DUPLICATES, QUARANTINED)
"""The tables that decide a fate, the first before the others."""
EXAMPLES = 3
GIVE_ALL = "give as the source all that was read; `kpiflow quarantine dismiss` closes refused ones that were corrected there"
OPEN_AGAIN = (
    "run `kpiflow quarantine replay`: it opens them again, and accepts them with --input as they were mended"
)
READ_AGAIN = "run `kpiflow backfill` over the source again"
GO_ON = "run `kpiflow stream` as before, with --until-idle if it is to end by itself"
REBUILD = "run `kpiflow backfill --replace` over the messages of that hour"


@dataclass
class Verdict:
    """Counts of messages, and what is wrong. received = reports + quarantined + duplicates + missing + uncommitted - surplus.

    `dismissed` are refused messages that were dismissed and that the source no longer has (without one: all dismissed ones);
    they count neither as received nor as quarantined.
    `uncommitted` are messages of a stream that have no fate yet and lie after what the job has committed: it goes on with them.
    `missing` are other messages without a fate, whether the source has them or only a row that points to a report that is gone;
    `surplus` fates without a message of the source, and further reports of a message that has one; `trimmed` entries that left
    their stream before they were read, and `gaps` where it is unknown how many did; `unreadable` files of the source that could
    not be read to their end; `waiting` windows, not messages, that lag behind their newest reports until the stream goes on.
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
        """Distinct messages of the source; without one, as many as the tables say."""
        return (
            self.reports + self.quarantined + self.duplicates + self.missing + self.uncommitted - self.surplus
        )

    def as_json(self) -> dict[str, Any]:
        """The counts in the order of the command's documentation, then the problems."""
        counts = {"received": self.received} | asdict(self)
        del counts["gaps"]
        return counts


@dataclass
class _Prints:
    """Fingerprints gathered from the files: of each table's messages, of those in quarantine rows that a replay closed or that
    were dismissed, and of the report_ids of reports and duplicates.

    Files that are `damaged` prove nothing: nobody has a fate in them.
    """

    damaged: set[Path] = field(default_factory=set)

    closed: list[Prints] = field(default_factory=list)
    dismissed: list[Prints] = field(default_factory=list)
    messages: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})
    reports: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})

    def add(self, table: Table, rows: pa.RecordBatch) -> None:
        prints = fingerprint_rows([rows[name] for name in MESSAGE_KEY])
        if table == QUARANTINED:
            closed = np.asarray(pc.is_in(rows["resolution"], pa.array(CLOSED)))
            self.closed.append(prints[closed])
            self.dismissed.append(prints[np.asarray(pc.is_in(rows["resolution"], pa.array([DISMISSED])))])
            prints = prints[~closed]
        self.messages[table.name].append(prints)
        if "report_id" in rows.schema.names:
            self.reports[table.name].append(fingerprint_rows([rows["report_id"]]))


def reconcile(
    output: Path,
    messages: Messages | None = None,
    track: Track = lambda sequence, _: sequence,
    streams: Sequence[str] | None = None,
    read_again: str = READ_AGAIN,
    home: Path | None = None,
) -> Verdict:
    """Check an output that no run is writing to, against itself and against the source that `messages` reads.

    `home` is where the stream that wrote it keeps its state, if not in the output. Of the streams that lost entries, `streams`
    count, or all. `read_again` says how to go on where messages have no fate.

    Raises:
        WrongUse: there is no output, or a newer kpiflow wrote it.
    """
    verdict, prints = Verdict(), _Prints()
    file_minutes = read_row_settings(output)["file_minutes"]
    every = [(table, path) for table in (*TABLES.values(), FLEET, TRIMMED) for path in paths(output, table)]
    for table, path in track(every, "files"):
        _inspect(output, table, path, file_minutes, verdict.problems, prints)
    left = find_pending_rows(home or output)
    _check_windows(output, left, prints.damaged, verdict, track)
    dangling = _check_reports(output, prints, verdict, read_again)
    _count_fates(output, prints, dangling, messages, left, verdict, read_again)
    _count_trimmed(output, prints, streams, verdict)
    return verdict


def _check_windows(
    output: Path, left: PendingRows | None, damaged: set[Path], verdict: Verdict, track: Track
) -> None:
    """Count each window again from its reports; what a stopped stream still has to write is no problem."""
    mend = f"{GO_ON}; if it still differs then, {REBUILD}" if left else REBUILD
    for hour in track(hours(output, damaged), "hours"):
        found = disagreements(output, hour, damaged, left)
        verdict.problems += [f"{line}; {mend}" for line in found.differences]
        verdict.waiting += found.waiting


def _inspect(
    output: Path, table: Table, path: Path, file_minutes: int, problems: list[str], prints: _Prints
) -> None:
    """Check one file by itself, and gather the fingerprints of its rows."""
    name = path.relative_to(output).as_posix()
    if problem := verify_file(path):
        problems.append(f"{name} {problem}; move it away, then {REBUILD}")
        prints.damaged.add(path)
        return
    wanted = {*table.key, table.time, *MESSAGE_KEY, "report_id", "resolution"}
    try:
        rows = load(path, table, [column for column in table.schema.names if column in wanted])
    except DamagedFile as error:
        problems.append(str(error))
        prints.damaged.add(path)
        return
    codes, places = assign_files(table, rows, file_minutes)
    if strays := int((np.array([place != name for place in places], dtype=bool)[codes]).sum()):
        first = next(place for place in places if place != name)
        problems.append(
            f"{name} holds {strays} rows that belong elsewhere, first into {first}; move it away, then {REBUILD}"
        )
    if repeats := rows.num_rows - len(np.unique(number_groups(rows, table.key))):
        problems.append(
            f"{name} holds {repeats} rows whose key another row has; move it away, then {REBUILD}"
        )
    if table in FATES:
        prints.add(table, rows)


def _check_reports(output: Path, prints: _Prints, verdict: Verdict, read_again: str) -> Prints:
    """Each report_id is one report of one file, and each duplicate is one of a report; returns the report_ids of duplicates that
    are not."""
    twice, dangling = [], []
    for distinct, counts in count_fingerprints(
        [_joined(prints.reports[table.name]) for table in (REPORTS, DUPLICATES)]
    ):
        twice.append(distinct[counts[:, 0] > 1])
        dangling.append(distinct[(counts[:, 0] == 0) & (counts[:, 1] > 0)])
    for found, table, text, mend in (
        (_joined(twice), REPORTS, "report_ids are in kpi_reports more than once", REBUILD),
        (_joined(dangling), DUPLICATES, "report_ids are in duplicates but not in kpi_reports", read_again),
    ):
        if len(found):
            examples = _examples(_whole(output, table, ["report_id"], prints.damaged), ("report_id",), found)
            verdict.problems.append(f"{len(found)} {text} ({examples}); {mend}")
    return _joined(dangling)


def _count_trimmed(output: Path, prints: _Prints, streams: Sequence[str] | None, verdict: Verdict) -> None:
    for rows in _whole(output, TRIMMED, ["source", "entries"], prints.damaged):
        if streams is not None:
            rows = rows.filter(pc.is_in(rows["source"], pa.array(streams, pa.string())))
        verdict.trimmed += pc.sum(rows["entries"]).as_py() or 0
        verdict.gaps += rows["entries"].null_count


def _count_fates(
    output: Path,
    prints: _Prints,
    dangling: Prints,
    messages: Messages | None,
    left: PendingRows | None,
    verdict: Verdict,
    read_again: str,
) -> None:
    """Fill in the counts, and name messages that have no fate, more than one, or no source."""
    unreadable: dict[str, str] = {}
    sets = [_joined(prints.messages[table.name]) for table in FATES]
    vain = find_among(_joined(prints.reports[DUPLICATES.name]), dangling)
    repeated = sets[FATES.index(DUPLICATES)]
    sets[FATES.index(DUPLICATES)] = repeated[~vain]
    sets += [_joined(prints.closed), repeated[vain], _joined(prints.dismissed)]
    uncommitted = _joined([])
    if messages is not None:
        source, uncommitted = _source(messages(unreadable.__setitem__), left)
        sets.append(source)
    odd = [_odd_ones(part, verdict, sourced=messages is not None) for part in count_fingerprints(sets)]
    missing, gone, orphans, *several = (_joined(found) for found in zip(*odd))
    to_come = find_among(missing, uncommitted)
    verdict.uncommitted, missing = int(to_come.sum()), missing[~to_come]
    verdict.missing -= verdict.uncommitted
    verdict.unreadable = len(unreadable)
    verdict.problems += [
        f"{file} could not be read to its end: {why}; get it whole" for file, why in unreadable.items()
    ]

    stored = (rows for table in FATES for rows in _whole(output, table, MESSAGE_KEY, prints.damaged))
    for found, batches, text, mend in (
        (missing, _reread(messages), "messages of the source have no fate", read_again),
        (gone, _whole(output, QUARANTINED, MESSAGE_KEY, prints.damaged),
         "messages left quarantine by a replay, but their reports are gone", OPEN_AGAIN),
        (orphans, stored, "messages have a fate but are not in the source", GIVE_ALL),
        *((found, _whole(output, table, MESSAGE_KEY, prints.damaged), f"messages are in {table.name} more than once", REBUILD)
          for found, table in zip(several, FATES)),
    ):  # fmt: skip
        if len(found):
            verdict.problems.append(f"{len(found)} {text} ({_examples(batches, MESSAGE_KEY, found)}); {mend}")


def _source(batches: Iterator[pa.RecordBatch], left: PendingRows | None) -> tuple[Prints, Prints]:
    """Fingerprints of the messages of a source, and of those that lie after what their job has committed: the stream says so
    itself, and of its archive those count that the stopped job may still have to write."""
    every, late = [], []
    for rows in batches:
        every.append(fingerprint_rows([rows[name] for name in MESSAGE_KEY]))
        if UNCOMMITTED in rows.schema.names:
            late.append(every[-1][np.asarray(rows[UNCOMMITTED])])
        elif left is not None:
            late.append(every[-1][left.among(rows)])
    return _joined(every), _joined(late)


def _odd_ones(part: Census, verdict: Verdict, sourced: bool) -> list[Prints]:
    """Add a part of the messages to the counts; those of the source without a fate, those whose replayed report is gone, those
    without a source, and those in each table more than once."""
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


def _examples(batches: Iterable[pa.RecordBatch], names: Sequence[str], wanted: Prints) -> str:
    """A few of the wanted rows, in words."""
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


def _reread(messages: Messages | None) -> Iterator[pa.RecordBatch]:
    yield from messages(lambda file, why: None) if messages else ()


def _whole(
    output: Path, table: Table, columns: Sequence[str], damaged: set[Path]
) -> Iterator[pa.RecordBatch]:
    """The named columns of the files of a table that are not damaged."""
    for path in paths(output, table):
        if path not in damaged:
            yield load(path, table, columns)


def _joined(prints: Sequence[Prints]) -> Prints:
    return np.concatenate([np.zeros((0, 2), np.uint64), *prints])
