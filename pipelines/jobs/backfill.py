"""The batch job: archives through the graph into outputs, in time slices if there are many messages.

A run that dies can be run again: it has written whole files of rows with keys, and writing them again changes
nothing.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from pipelines.assembly import ReadSource, Spooled, make_batch_sinks, make_sources
from pipelines.failures import WrongUse
from pipelines.graph import build, make_rules
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.time_slices import Spool
from pipelines.outputs import Outputs, open_outputs
from pipelines.settings import Settings
from pipelines.sources import archives_of
from runners import direct
from transforms.core import stage_counters
from transforms.core.arrow_coder import pass_by_reference
from transforms.core.run_metrics import Results
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import Files
from transforms.sources.archives.archive_reader import Unreadable, read_files
from transforms.sources.archives.archive_source import count_bytes
from transforms.validation.quarantine_rows import quarantine_misfits

REPORT_BYTES = 600
"""About the size of an archived report in its envelope: tells before reading whether slices are needed."""
COMPRESSION = 8
"""About the ratio of a compressed archive."""
_SPOOL = "_spool"


def backfill(
    files: Files,
    texts: Sequence[str],
    settings: Settings,
    span: Span | None = None,
    beam_options: Sequence[str] = (),
) -> Results:
    """Run the graph over archives into outputs; the number of messages, and the files that are incomplete.

    Raises:
        WrongUse: an output cannot be used, is being written by another job, or was made with other settings.
        OutputFull: no space is left; what was written is whole.
        Unavailable, Refused: an output did not accept rows; what was written is whole.
    """
    stage_counters.reset()
    outputs, settings = open_outputs(texts, settings)
    with lock_folders(*outputs.folders):
        return fill_outputs(files, outputs, settings, span or Span(), beam_options)


def fill_outputs(
    files: Files, outputs: Outputs, settings: Settings, span: Span, beam_options: Sequence[str]
) -> Results:
    """Run the graph over archives into outputs that this job has locked, in time slices if need be."""
    if _estimate_rows(files) <= settings.slice_reports:
        messages = ReadSource(archives_of(files, settings).read(), settings)
        return _run(messages, outputs, settings, span, beam_options)
    with _spool_by_hour(files, next(iter(outputs.folders), None), settings) as (spool, refused, results):
        for paths in spool.slices(settings.slice_reports) or [[]]:
            results += _run(Spooled(paths, refused), outputs, settings, span, beam_options)
            refused = []
    return results


def _run(
    messages: ReadSource | Spooled,
    outputs: Outputs,
    settings: Settings,
    span: Span,
    beam_options: Sequence[str],
) -> Results:
    def wire(root: beam.Pipeline) -> None:
        build(root, make_sources(messages, outputs, span), make_batch_sinks(outputs, settings), settings)

    try:
        return Results.of(direct.run(wire, beam_options, pass_by_reference))
    except direct.TakenOptionError as error:
        raise WrongUse(str(error), "leave the option out") from error


def _estimate_rows(files: Files) -> int:
    plain = sum(file.size for file in files.whole if file.path.endswith(("json", "jsonl")))
    return (plain + (files.total_bytes - plain) * COMPRESSION) // REPORT_BYTES


@contextmanager
def _spool_by_hour(
    files: Files, folder: Path | None, settings: Settings
) -> Iterator[tuple[Spool, list[pa.RecordBatch], Results]]:
    """Sort the archives' messages by hour into a folder that is removed at the end.

    Yields the spool, QUARANTINE rows of what was rejected, and which files are incomplete.
    """
    place = folder / _SPOOL if folder else Path(tempfile.mkdtemp(prefix="kpiflow-"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        spool = Spool(place)
        refused: list[pa.RecordBatch] = []
        results = Results()
        for chunk in read_files(files, settings.read_mb << 20, count_bytes, settings.max_payload_bytes):
            if isinstance(chunk, Unreadable):
                results += Results(incomplete=(f"{chunk.file} {chunk.reason}",))
                continue
            with stage_counters.time_stage("spool", chunk.messages.num_rows):
                spool.add(chunk.messages)
            if chunk.rejected.num_rows:
                refused.append(quarantine_misfits(chunk.rejected, make_rules(settings).limits))
        yield spool, refused, results
    finally:
        shutil.rmtree(place, ignore_errors=True)
