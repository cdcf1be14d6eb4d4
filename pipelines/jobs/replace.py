"""Replace: a span of time is rewritten from its input alone, `kpiflow backfill --replace`.

The span is first built in a staging folder. The stored reports around the span are copied there without their
flags, a plain backfill runs over them, and the hours after the span, whose baselines reach into it, are
flagged again. Only then are the output's files rewritten, one by one. The staging folder depends on nothing
that rewriting changes, so after a kill at any point the same command gives the same output.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.assembly import NoMessages, make_batch_sinks, make_batch_timing, make_blocks
from pipelines.failures import WrongUse
from pipelines.graph import Sources, build
from pipelines.jobs.backfill import fill_outputs, open_fitting_outputs
from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.engines import BatchEngine
from pipelines.jobs.lock import lock_for_batch
from pipelines.jobs.work_folder import make_work_folder
from pipelines.outputs import Outputs, folder_outputs
from pipelines.settings import Settings
from pipelines.verify.record_keys import REPEATED, read_repeated_keys, split_stored_kinds
from pipelines.verify.table_scan import list_files, load, scan
from schemas.kinds import KINDS
from schemas.tables import (
    AGGREGATIONS,
    DUPLICATES,
    FLEET,
    MESSAGE_KEY,
    QUARANTINED,
    RECORD_TABLES,
    REPORTS,
    Table,
)
from transforms.core import stage_counters
from transforms.core.expiry import Expiry
from transforms.core.key_wrapping import MonthKey
from transforms.core.record_batches import concat, make_empty
from transforms.core.run_metrics import Results
from transforms.core.time_range import Span
from transforms.encryption.key_ring import find_writing_key
from transforms.history.blocks import Blocks
from transforms.history.recall import ReadHours, list_hours_to_read, recall_hours
from transforms.history.time_rules import HOUR_SECONDS, LOOKBACK_HOURS
from transforms.sinks.parquet.day_file import encode_day_file
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import describe_damage, encode_file, verify_file
from transforms.sinks.row_merge import format_keys, merge_rows
from transforms.sinks.sink import Store
from transforms.sources.archives.archive_files import ArchiveFiles
from transforms.storage.local_folder import LocalFolder

Kept = NDArray[np.bool_]
Keep = Callable[[pa.RecordBatch], Kept]
"""Tells which of a table's stored rows (bool[n]) stay."""

UNJUDGED = -1
"""The revision of a report without flags: one with flags supersedes it."""
_STAGING = "_replacing"


def replace_span(
    files: ArchiveFiles, texts: Sequence[str], settings: Settings, span: Span, engine: BatchEngine
) -> Results:
    """Replace what an output folder holds of the span by what the archives hold.

    These are the reports recorded in it, the records whose time is in it (`Table.time`, of agents
    effective_at), their duplicates, and what was received and rejected in it.

    Returns the number of messages and the incomplete files; if there are any, the output stays as it was.

    Raises:
        WrongUse: the span is not from one full hour (UTC) to another, or has expired; the output
            is no folder of this machine, is being written by another job, or was made with other settings.
        OutputFull: no space is left; the same call again completes the work.
        DamagedFile: a file that must be rewritten has changed since it was written; none was rewritten.
    """
    first, end = _read_hours(span)
    stage_counters.reset()
    outputs, settings = open_fitting_outputs(files, texts, settings)
    if len(outputs.sinks) > 1 or not outputs.folders:
        fix = "elsewhere delete the span, then backfill it"
        raise WrongUse(f"--replace rewrites one folder of files, not {outputs}", fix)
    (output,) = outputs.folders
    with lock_for_batch(output) as locks, make_work_folder(output, _STAGING) as staging:
        _refuse_expired(span, outputs.read_expiry())
        staged = folder_outputs(staging, settings, outputs.keys)
        after = set(range(end, end + LOOKBACK_HOURS))
        _stage_around(outputs, staged, {*range(first - LOOKBACK_HOURS, first), *after})
        results = fill_outputs(files, staged, settings, span, engine, locks)
        if not results.incomplete:
            _flag_again(staged, after, settings, engine, locks)
            for change in list(_list_changes(output, staging, span)):
                _rewrite(change, outputs.main, find_writing_key(LocalFolder(output)))
            derive_outputs(outputs, settings)
    return results


def _read_hours(span: Span) -> tuple[int, int]:
    """The first hour (since 1970) of the span, and the first after it."""
    if span.start is None or span.end is None:
        raise WrongUse("--replace rewrites a span of time", "give --from and --to, both on full hours")
    first, end = int(span.start.timestamp()) // HOUR_SECONDS, -int(-span.end.timestamp() // HOUR_SECONDS)
    whole = [datetime.fromtimestamp(hour * HOUR_SECONDS, UTC) for hour in (first, end)]
    if whole != [span.start, span.end]:
        start, stop = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in whole)
        fix = f"give --from {start} --to {stop}, with input for all of that time"
        raise WrongUse("--replace rewrites full hours (UTC)", fix)
    return first, end


def _refuse_expired(span: Span, expiry: Expiry) -> None:
    """Refuse a span of which reports have expired: the rows that are left there could not be judged again."""
    start = expiry.find_start(REPORTS)
    if start is not None and span.start is not None and span.start < start:
        raise WrongUse(
            f"reports from before {start:%Y-%m-%dT%H:%M:%SZ} have expired, and the span begins earlier",
            f"give --from {start:%Y-%m-%dT%H:%M:%SZ} or later; what has expired can go into a new output",
        )


def _stage_around(outputs: Outputs, staged: Outputs, hours: set[int]) -> None:
    """Copy the stored reports of some hours into `staged`, without flags."""
    for reports in recall_hours(outputs.main, hours):
        own = reports.filter(pc.invert(reports["context"]))
        revision = pa.array(np.full(own.num_rows, UNJUDGED))
        staged.main.write(REPORTS, [own.append_column("revision", revision)])


def _flag_again(
    staged: Outputs, hours: set[int], settings: Settings, engine: BatchEngine, locks: tuple[int, ...]
) -> None:
    """Run the graph over the staged reports of some hours, with no new messages."""

    def wire(root: beam.Pipeline) -> None:
        recall = _RecallHours(staged.main, make_blocks(settings), hours)
        sources = Sources(NoMessages(), recall)
        build(root, sources, make_batch_sinks(staged, settings), settings, make_batch_timing(settings))

    engine.run(wire, staged.folders[0], locks)


class _RecallHours(beam.PTransform):
    """The stored reports of some hours, with their lookback, whatever new reports there are."""

    def __init__(self, store: Store, blocks: Blocks, hours: set[int]) -> None:
        super().__init__()
        self.store, self.blocks, self.hours = store, blocks, hours

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        hours = reports.pipeline | "Hours" >> beam.Create(list_hours_to_read(sorted(self.hours)))
        return hours | "Read" >> ReadHours(self.store, self.blocks)


class _Change(NamedTuple):
    """A file to rewrite, which of its rows stay, and the staged files whose rows it gets."""

    table: Table
    file: OutputFile
    kept: Kept
    staged: Sequence[OutputFile]


def _list_changes(output: Path, staging: Path, span: Span) -> Iterator[_Change]:
    """The files to rewrite; reports and records come last, since they tell which duplicates go."""
    files = OutputFiles.of(output)
    for table, columns, keep in _choose_rows(output, staging, span):
        stored = {file for file in files.list_table(table) if not file.is_day or file.get()}
        staged: dict[OutputFile, list[OutputFile]] = defaultdict(list)
        for part in list_files(staging, table):
            if (file := files.find(part.name)) is not None:
                staged[file].append(part)
        for file in sorted({*stored, *staged}):
            kept = keep(load(file, table, columns)) if file in stored else np.zeros(0, bool)
            if kept.all() and file not in staged:
                continue
            if file in stored and (problem := verify_file(file.open())):
                raise describe_damage(str(file), problem)
            yield _Change(table, file, kept, staged[file])


def _rewrite(change: _Change, store: Store, key: MonthKey | None) -> None:
    """Rewrite a file of the output: the rows that stay, and the staged ones; encrypted, if there is a key."""
    table, file, kept, parts = change
    nothing = make_empty(table.schema)
    with file.storage.lock(file.name.rpartition("/")[0]):
        stored = load(file, table).filter(pa.array(kept)) if len(kept) else nothing
        merged = merge_rows(table, stored, concat([nothing, *(load(part, table) for part in parts)]))
        if merged.displaced.num_rows:  # of an agent without any time, which no span contains
            store.write(DUPLICATES, [merged.displaced])
        if not merged.rows.num_rows and not file.is_day:
            file.storage.remove(file.name)
        elif merged.taken or not kept.all():
            current, encode = file.get(), partial(encode_day_file, table) if file.is_day else encode_file
            file.storage.put(file.name, encode(merged.rows, key=key), current and current.version)


def _choose_rows(output: Path, staging: Path, span: Span) -> list[tuple[Table, list[str], Keep]]:
    """The tables in the order of rewriting, the columns that tell which rows stay, and the rule."""
    assert span.end is not None
    rewritten = Span(span.start, span.end + timedelta(hours=LOOKBACK_HOURS))
    renewed = _find_renewed(output, staging, span)
    inside, outside = _find_repeated(output, span)

    def is_undone(rows: pa.RecordBatch) -> Kept:
        return _are_within(span, rows["received_at"]) | _are_among(_join_names(rows), renewed)

    def keep_duplicates(rows: pa.RecordBatch) -> Kept:
        repeated = _join_kind(rows["kind"], read_repeated_keys(rows))
        return _are_among(repeated, outside) | ~(_are_among(repeated, inside) | is_undone(rows))

    return [
        (DUPLICATES, [*MESSAGE_KEY, "received_at", *REPEATED], keep_duplicates),
        (QUARANTINED, [*MESSAGE_KEY, "received_at"], lambda rows: ~is_undone(rows)),
        *(
            (table, [table.time], lambda rows: ~rewritten.contains(rows["time_window_start"]))
            for table in (AGGREGATIONS, FLEET)
        ),
        *(
            (table, [table.span_time], lambda rows: ~_are_within(span, rows.column(0)))
            for table in RECORD_TABLES.values()
        ),
        (REPORTS, [REPORTS.time], lambda rows: ~rewritten.contains(rows[REPORTS.time])),
    ]


def _are_within(span: Span, times: pa.Array) -> Kept:
    """bool[n]: which times are in the span; a null time is not."""
    return span.contains(times) & np.asarray(times.is_valid())


def _join_names(rows: pa.RecordBatch) -> pa.Array:
    return pc.binary_join_element_wise(rows["source"], rows["message_id"], "\0")


def _join_kind(kind: pa.Array | str, keys: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(kind, keys, "\0")


def _are_among(values: pa.Array, known: pa.Array) -> Kept:
    return np.asarray(pc.is_in(values, known))


def _find_renewed(output: Path, staging: Path, span: Span) -> pa.Array:
    """The names of refused and duplicate messages of the output to which the input gives a fate."""
    stored = [
        _join_names(rows) for table in (QUARANTINED, DUPLICATES) for rows in scan(output, table, MESSAGE_KEY)
    ]
    known = _join_arrays(stored)
    staged = [
        _join_names(rows) for table in (QUARANTINED, DUPLICATES) for rows in scan(staging, table, MESSAGE_KEY)
    ]
    for kind in KINDS.values():
        time = kind.table.span_time
        records = scan(staging, kind.table, [*MESSAGE_KEY, time])
        staged += [_join_names(rows.filter(pa.array(span.contains(rows[time])))) for rows in records]
    return _join_arrays([names.filter(pc.is_in(names, known)) for names in staged])


def _find_repeated(output: Path, span: Span) -> tuple[pa.Array, pa.Array]:
    """The stored reports and records that have duplicates: those in the span, and the others."""
    repeated: dict[str, list[pa.Array]] = defaultdict(list)
    for duplicates in scan(output, DUPLICATES, REPEATED):
        for name, rows in split_stored_kinds(duplicates):
            repeated[name].append(read_repeated_keys(rows))
    sides: tuple[list[pa.Array], list[pa.Array]] = ([], [])
    for kind in (each for name, each in KINDS.items() if name in repeated):
        known, time = _join_arrays(repeated[kind.schema]), kind.table.span_time
        for rows in scan(output, kind.table, list(dict.fromkeys([*kind.table.key, time]))):
            keys = format_keys(kind, rows)
            found, within = np.asarray(pc.is_in(keys, known)), _are_within(span, rows[time])
            for side, mask in zip(sides, (within, ~within)):
                side.append(_join_kind(kind.schema, keys.filter(pa.array(found & mask))))
    inside, outside = map(_join_arrays, sides)
    return inside, outside


def _join_arrays(parts: Sequence[pa.Array]) -> pa.Array:
    return pa.chunked_array(parts, pa.string()).combine_chunks()
