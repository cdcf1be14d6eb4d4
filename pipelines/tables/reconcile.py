"""Whether every message has exactly one fate, proved from the tables and, if given, from the source the messages came from.

A message that is in several tables has the fate of the first of reports, duplicates, quarantine: what a replay or a restart left
in a later one counts as no fate.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.tables.agreement import disagreements, hours
from pipelines.tables.fingerprints import Prints, among, census, fingerprints
from pipelines.tables.output import stored_settings
from pipelines.tables.scan import load, paths, scan
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, TABLES, Table, files
from transforms.sinks.files import DamagedFile, verify
from transforms.sinks.union import key_groups

Unreadable = Callable[[str, str], None]
"""Called with a file of the source that could not be read to its end, and why."""
Messages = Callable[[Unreadable], Iterator[pa.RecordBatch]]
"""Reads the source from its beginning: batches with (at least) string columns `source` and `message_id`."""
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Walks through a sequence and may show how far it is, as `rich.progress.track` does."""

MESSAGE_KEY = ("source", "message_id")
FATES = (REPORTS, DUPLICATES, QUARANTINED)
"""The tables that decide a fate, the first before the others."""
EXAMPLES = 3
REBUILD = "run `kpiflow backfill --replace` over the messages of that hour"


@dataclass
class Verdict:
    """Counts of messages, and what is wrong. received = reports + quarantined + duplicates + missing - surplus.

    `missing` are messages of the source without a fate; `surplus` fates without a message of the source, and further reports of a
    message that has one; `unreadable` files of the source that could not be read to their end. Without a source, nothing is missing.
    """

    reports: int = 0
    quarantined: int = 0
    duplicates: int = 0
    missing: int = 0
    surplus: int = 0
    trimmed: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def received(self) -> int:
        """Distinct messages of the source; without one, as many as the tables say."""
        return self.reports + self.quarantined + self.duplicates + self.missing - self.surplus

    def as_json(self) -> dict[str, Any]:
        """The counts in the order of the command's documentation, then the problems."""
        return {"received": self.received} | asdict(self)


@dataclass
class _Prints:
    """Fingerprints gathered from the files: of each table's messages, and of the report_ids of reports and duplicates."""

    messages: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})
    reports: dict[str, list[Prints]] = field(default_factory=lambda: {table.name: [] for table in FATES})

    def add(self, table: Table, rows: pa.RecordBatch) -> None:
        self.messages[table.name].append(fingerprints([rows[name] for name in MESSAGE_KEY]))
        if "report_id" in rows.schema.names:
            self.reports[table.name].append(fingerprints([rows["report_id"]]))


def reconcile(output: Path, messages: Messages | None = None, track: Track = lambda sequence, _: sequence) -> Verdict:
    """Check an output that no run is writing to, against itself and against the source that `messages` reads.

    Raises:
        WrongUse: there is no output, or a newer kpiflow wrote it.
    """
    verdict, prints = Verdict(), _Prints()
    file_minutes = stored_settings(output)["file_minutes"]
    every = [(table, path) for table in TABLES.values() for path in paths(output, table)]
    for table, path in track(every, "files"):
        _inspect(output, table, path, file_minutes, verdict.problems, prints)
    for hour in track(hours(output), "hours"):
        verdict.problems += [f"{line}; {REBUILD}" for line in disagreements(output, hour)]
    _check_reports(output, prints, verdict)
    _count_fates(output, prints, messages, verdict)
    return verdict


def _inspect(output: Path, table: Table, path: Path, file_minutes: int, problems: list[str], prints: _Prints) -> None:
    """Check one file by itself, and gather the fingerprints of its rows."""
    name = path.relative_to(output).as_posix()
    if problem := verify(path):
        problems.append(f"{name} {problem}; move it away, then {REBUILD}")
    wanted = {*table.key, table.time, *(() if table.name == "kpi_aggregations" else (*MESSAGE_KEY, "received_at"))}
    wanted |= {"report_id"} & set(table.schema.names)
    try:
        rows = load(path, table, [column for column in table.schema.names if column in wanted])
    except DamagedFile:
        return
    codes, places = files(table, rows, file_minutes)
    if strays := int((np.array([place != name for place in places], dtype=bool)[codes]).sum()):
        first = next(place for place in places if place != name)
        problems.append(f"{name} holds {strays} rows that belong elsewhere, first into {first}; move it away, then {REBUILD}")
    if repeats := rows.num_rows - len(np.unique(key_groups(rows, table.key))):
        problems.append(f"{name} holds {repeats} rows whose key another row has; move it away, then {REBUILD}")
    if table in FATES:
        prints.add(table, rows)


def _check_reports(output: Path, prints: _Prints, verdict: Verdict) -> None:
    """Each report_id is one report of one file, and each duplicate is one of a report."""
    twice, dangling = [], []
    for distinct, counts in census([_joined(prints.reports[table.name]) for table in (REPORTS, DUPLICATES)]):
        twice.append(distinct[counts[:, 0] > 1])
        dangling.append(distinct[(counts[:, 0] == 0) & (counts[:, 1] > 0)])
    for found, table, text in (
        (_joined(twice), REPORTS, "report_ids are in kpi_reports more than once; remove the file that is a copy"),
        (_joined(dangling), DUPLICATES, f"duplicates are of reports that kpi_reports does not hold; {REBUILD}"),
    ):
        if len(found):
            first = _examples(scan(output, table, ["report_id"]), ("report_id",), found)
            verdict.problems.append(f"{len(found)} {text} (first: {first})")


def _count_fates(output: Path, prints: _Prints, messages: Messages | None, verdict: Verdict) -> None:
    """Fill in the counts, and name messages that have no fate, more than one, or no source."""
    unreadable: dict[str, str] = {}
    sets = [_joined(prints.messages[table.name]) for table in FATES]
    if messages is not None:
        read = messages(unreadable.__setitem__)
        sets.append(_joined([fingerprints([rows[name] for name in MESSAGE_KEY]) for rows in read]))
    missing, orphans, doubled = [], [], []
    twice = dict.fromkeys((DUPLICATES.name, QUARANTINED.name), 0)
    for distinct, counts in census(sets):
        reported, duplicate, refused = (counts[:, kind] > 0 for kind in range(len(FATES)))
        sourced = counts[:, -1] > 0 if messages is not None else np.ones(len(distinct), dtype=bool)
        fated = reported | duplicate | refused
        verdict.reports += int(counts[:, 0].sum())
        verdict.duplicates += int((duplicate & ~reported).sum())
        verdict.quarantined += int((refused & ~duplicate & ~reported).sum())
        verdict.surplus += int((counts[:, 0] - 1)[reported].sum() + (fated & ~sourced).sum())
        missing.append(distinct[~fated])
        orphans.append(distinct[fated & ~sourced])
        doubled.append(distinct[counts[:, 0] > 1])
        for kind, name in enumerate(twice, start=1):
            twice[name] += int((counts[:, kind] > 1).sum())
    verdict.missing, verdict.unreadable = len(_joined(missing)), len(unreadable)
    verdict.problems += [f"{file} could not be read to its end: {why}" for file, why in unreadable.items()]
    verdict.problems += [f"{count} messages are in {name} more than once; {REBUILD}" for name, count in twice.items() if count]
    _name_messages(output, messages, verdict, _joined(missing), _joined(orphans), _joined(doubled))
