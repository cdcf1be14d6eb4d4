"""Proves that every message has exactly one fate, from the tables and, if given, from the source of the
messages.

A message in several tables has the fate of the first of FATES: its report or record, duplicates, quarantine;
a replay or a restart can leave a row in a later one. A row that only points to a report or record is no fate
if that is not stored: a quarantine row that a replay closed, or a duplicate. Its message is missing, whether
the source is given or not. A dismissed quarantine row is a fate as long as the source has its message. After
that it only counts as `dismissed`. A message without a row whose row would lie in what has expired has the
fate `expired` (`pipelines.verify.expired`). All kinds of messages are checked in the same way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.jobs.pending_rows import PendingRows, find_pending_rows
from pipelines.verify.derived_checks import find_derived_problems
from pipelines.verify.expired import ExpiryRule, Payloads, read_expired_untimed
from pipelines.verify.fates import FADED, GONE, MISSING, ORPHANS, SEVERAL_TABLES, Odd, count_fates
from pipelines.verify.file_checks import READ_AGAIN, REBUILD, check_file, load_undamaged
from pipelines.verify.fingerprints import Prints, count_fingerprints, find_among
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.record_keys import FATES, REPEATED, read_repeated_keys
from pipelines.verify.recount import disagreements, hours
from pipelines.verify.stored_prints import StoredPrints, fingerprint_messages, join_prints
from pipelines.verify.table_scan import list_files
from pipelines.verify.verdict import Reconciliation
from schemas.kinds import KINDS
from schemas.tables import DUPLICATES, FLEET, MESSAGE_KEY, QUARANTINED, REPORTS, TABLES, TRIMMED, Table
from transforms.encryption.key_ring import has_keys
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.row_merge import format_keys
from transforms.sources.source import UNCOMMITTED
from transforms.storage.local_folder import LocalFolder

Unreadable = Callable[[str, str], None]
"""Called with each file of the source that could not be read to its end, and the reason."""
Messages = Callable[[Unreadable], Iterator[pa.RecordBatch]]
"""Reads the source from its beginning, as batches with at least the columns `source` and `message_id`, and
for a stream the boolean column `uncommitted`, else `received_at`.
"""
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Iterates over a sequence and may show progress, like `rich.progress.track`."""

GIVE_ALL = (
    "give everything that was read as the source; `kpiflow quarantine dismiss` closes rejected messages that "
    "were corrected there"
)
OPEN_AGAIN = "run `kpiflow quarantine replay`: it opens them again, and accepts corrected ones with --input"
GO_ON = "run `kpiflow stream` as before, with --until-idle if it is to end by itself"
ONE_KIND = f"if they were read as two kinds, {REBUILD} as the right one"


def reconcile(
    output: Path,
    messages: Messages | None = None,
    track: Track = lambda sequence, _: sequence,
    streams: Sequence[str] | None = None,
    read_again: str = READ_AGAIN,
    home: Path | None = None,
    payloads: Payloads | None = None,
) -> Reconciliation:
    """Check an output to which no run is writing, against itself and against the source that `messages`
    reads.

    `home` is the folder with the state of the stream that wrote it, if not the output. Lost entries are
    counted of `streams`, or of all. `payloads` reads the source again, to judge messages that may have
    expired; without it, when they were received tells. `read_again` is the fix for messages without a fate.

    Raises:
        WrongUse: there is no output, or a newer kpiflow wrote it.
    """
    row_settings = read_row_settings(output)
    file_minutes, rule = row_settings["file_minutes"], ExpiryRule.of(output, row_settings)
    verdict, prints = Reconciliation(), StoredPrints(rule)
    tables = (*TABLES.values(), FLEET, TRIMMED)
    is_encrypted = has_keys(LocalFolder(output))
    every = [(table, file) for table in tables for file in list_files(output, table)]
    for table, file in track(every, "files"):
        check_file(table, file, file_minutes, is_encrypted, verdict.problems, prints)
    left = find_pending_rows(home or output)
    _check_windows(output, left, prints, verdict, track)
    dangling = _check_keys(output, prints, verdict, read_again)
    _count_fates(output, prints, dangling, messages, payloads, left, verdict, read_again)
    _count_trimmed(output, prints, streams, verdict)
    if not prints.damaged:
        verdict.problems += find_derived_problems(output)
    return verdict


def _check_windows(
    output: Path, left: PendingRows | None, prints: StoredPrints, verdict: Reconciliation, track: Track
) -> None:
    """Count each window again from its reports, unless one of the two has expired. What a stopped stream
    still has to write is not a problem."""
    fix = f"{GO_ON}; if it still differs then, {REBUILD}" if left else REBUILD
    expiry = prints.rule.expiry
    for hour in track(hours(output, prints.damaged), "hours"):
        if expiry.has_expired(REPORTS.name, hour.date):
            continue
        found = disagreements(hour, left, expiry)
        verdict.problems += [f"{line}; {fix}" for line in found.differences]
        verdict.waiting += found.waiting


def _check_keys(
    output: Path, prints: StoredPrints, verdict: Reconciliation, read_again: str
) -> dict[str, Prints]:
    """Check that each report and record is stored once, and that each duplicate has what it repeats.

    Returns by kind the keys that duplicates repeat although they are not stored.
    """
    dangling = {}
    for kind in [name for name in KINDS if name in {*prints.keys, *prints.repeated}]:
        table = KINDS[kind].table
        twice, lost = _compare_keys(join_prints(prints.keys[kind]), join_prints(prints.repeated[kind]))
        key = " ".join(table.key)
        stored = _read_keys(output, kind, prints.damaged)
        repeated = _read_repeated(output, kind, prints.damaged)
        dangling[kind], lost = lost, lost[find_among(lost, prints.join_lasting(kind))]
        verdict.add_problem(twice, stored, key, f"in {table.name} more than once", REBUILD, ["key"])
        absent = f"in duplicates but not in {table.name}"
        verdict.add_problem(lost, repeated, key, absent, read_again, ["key"])
    return dangling


def _compare_keys(stored: Prints, repeated: Prints) -> tuple[Prints, Prints]:
    """The keys that are stored more than once, and those that are repeated but not stored."""
    twice, lost = [], []
    for distinct, counts in count_fingerprints([stored, repeated]):
        twice.append(distinct[counts[:, 0] > 1])
        lost.append(distinct[(counts[:, 0] == 0) & (counts[:, 1] > 0)])
    return join_prints(twice), join_prints(lost)


def _read_keys(output: Path, kind: str, damaged: set[OutputFile]) -> Iterator[pa.RecordBatch]:
    """The keys of a kind that are stored, as a column `key`."""
    table = KINDS[kind].table
    for rows in load_undamaged(output, table, table.key, damaged):
        yield pa.record_batch([format_keys(KINDS[kind], rows)], ["key"])


def _read_repeated(output: Path, kind: str, damaged: set[OutputFile]) -> Iterator[pa.RecordBatch]:
    """The keys of a kind that duplicates repeat, as a column `key`."""
    for rows in load_undamaged(output, DUPLICATES, REPEATED, damaged):
        own = rows.filter(pc.equal(rows["kind"], kind))
        yield pa.record_batch([read_repeated_keys(own)], ["key"])


def _count_trimmed(
    output: Path, prints: StoredPrints, streams: Sequence[str] | None, verdict: Reconciliation
) -> None:
    for rows in load_undamaged(output, TRIMMED, ["source", "entries"], prints.damaged):
        if streams is not None:
            rows = rows.filter(pc.is_in(rows["source"], pa.array(streams, pa.string())))
        verdict.trimmed += pc.sum(rows["entries"]).as_py() or 0
        verdict.gaps += rows["entries"].null_count


def _count_fates(
    output: Path,
    prints: StoredPrints,
    dangling: dict[str, Prints],
    messages: Messages | None,
    payloads: Payloads | None,
    left: PendingRows | None,
    verdict: Reconciliation,
    read_again: str,
) -> None:
    """Fill in the counts, and name messages that have no fate, more than one, or no source."""
    unreadable: dict[str, str] = {}
    source, uncommitted = None, join_prints([])
    if messages is not None:
        source, uncommitted = _read_source(messages(unreadable.__setitem__), left)
    odd = count_fates(prints.join_messages(dangling), source, verdict)
    pending = find_among(odd[MISSING], uncommitted)
    verdict.uncommitted, odd[MISSING] = int(pending.sum()), odd[MISSING][~pending]
    verdict.expired = _take_untimed(output, odd) + _take_expired(odd, prints, payloads)
    verdict.missing -= verdict.uncommitted + verdict.expired
    verdict.unreadable = len(unreadable)
    verdict.problems += [
        f"{file} could not be read to its end: {why}; get it whole" for file, why in unreadable.items()
    ]
    _name_odd(output, prints, odd, messages, verdict, read_again)


def _take_untimed(output: Path, odd: Odd) -> int:
    """Take the messages whose rows without a time have expired out of those without a fate; how many there
    are."""
    messages = list(read_expired_untimed(output))
    expired = find_among(odd[MISSING], join_prints([fingerprint_messages(each) for each in messages]))
    odd[MISSING] = odd[MISSING][~expired]
    return int(expired.sum())


def _take_expired(odd: Odd, prints: StoredPrints, payloads: Payloads | None) -> int:
    """Take the messages that have expired out of those without a fate; how many there are.

    What is only known to have perhaps expired is missing, if its payload shows that it has not.
    """
    faded = odd.pop(FADED)
    wanted = join_prints([faded, odd[MISSING], odd[GONE]])
    if payloads is None or not prints.rule.expiry or not len(wanted):
        return len(faded)
    keys = {kind: join_prints(parts) for kind, parts in prints.keys.items()}
    expired, alive = prints.rule.judge(payloads, wanted, keys)
    is_alive = find_among(faded, alive)
    found = len(faded) - int(is_alive.sum())
    for problem in (MISSING, GONE):
        gone = find_among(odd[problem], expired)
        found, odd[problem] = found + int(gone.sum()), odd[problem][~gone]
    odd[MISSING] = join_prints([odd[MISSING], faded[is_alive]])
    return found


def _name_odd(
    output: Path,
    prints: StoredPrints,
    odd: Odd,
    messages: Messages | None,
    verdict: Reconciliation,
    read_again: str,
) -> None:
    """Add a problem for each kind of odd messages, with examples."""

    def read(*tables: Table) -> Iterator[pa.RecordBatch]:
        return chain(*(load_undamaged(output, table, MESSAGE_KEY, prints.damaged) for table in tables))

    for problem, rows, text, fix in (
        (MISSING, _read_again(messages), "of the source without a fate", read_again),
        (GONE, read(QUARANTINED), "replayed, but with reports or records that are gone", OPEN_AGAIN),
        (ORPHANS, read(*FATES), "with a fate but not in the source", GIVE_ALL),
        (SEVERAL_TABLES, read(*FATES), "in the tables of several kinds", ONE_KIND),
        *((table.name, read(table), f"in {table.name} more than once", REBUILD) for table in FATES),
    ):
        verdict.add_problem(odd.get(problem, join_prints([])), rows, "message", text, fix)


def _read_source(batches: Iterator[pa.RecordBatch], left: PendingRows | None) -> tuple[Prints, Prints]:
    """Fingerprints of the messages of a source, and of those after the committed offset.

    A stream tells which these are. Of its archive they are the ones that the stopped job may still have to
    write.
    """
    every, late = [], []
    for rows in batches:
        every.append(fingerprint_messages(rows))
        if UNCOMMITTED in rows.schema.names:
            late.append(every[-1][np.asarray(rows[UNCOMMITTED])])
        elif left is not None:
            late.append(every[-1][left.among(rows)])
    return join_prints(every), join_prints(late)


def _read_again(messages: Messages | None) -> Iterator[pa.RecordBatch]:
    yield from messages(lambda file, why: None) if messages else ()
