"""The batch job: archives through the graph into an output folder, in time slices where they are many.

A run that dies can be run again as it was: what it wrote are whole files of rows with keys, and writing them again changes nothing.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from pipelines.assembly import ReadSource, Spooled, choose_sinks, choose_sources
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
from transforms.sources.archives.archive_reader import Files, Unreadable, read
from transforms.sources.archives.archive_source import count_bytes
from transforms.validation.quarantine_rows import quarantine_misfits

REPORT_BYTES = 600
"""About the size of an archived report in its envelope, to tell before reading whether an archive needs slices."""
COMPRESSION = 8
"""About how much smaller a compressed archive is."""
_SPOOL = "_spool"


def backfill(
    files: Files,
    texts: Sequence[str],
    settings: Settings,
    span: Span | None = None,
    beam_options: Sequence[str] = (),
) -> Results:
    """Run the graph over archives into outputs; returns how many messages there were, and which files are incomplete.

    Raises:
        WrongUse: an output cannot be used, is another job's, or was made with other settings.
        OutputFull: no space is left; what is written is whole.
        Unavailable, Refused: an output did not take the rows; what is written is whole.
    """
    stage_counters.reset()
    outputs, settings = open_outputs(texts, settings)
    with lock_folders(*outputs.folders):
        return fill(files, outputs, settings, span or Span(), beam_options)


def fill(
    files: Files, outputs: Outputs, settings: Settings, span: Span, beam_options: Sequence[str]
) -> Results:
    """Run the graph over archives into outputs that this job holds, in time slices where the archives are many."""
    if _about_rows(files) <= settings.slice_reports:
        messages = ReadSource(archives_of(files, settings).read(), settings)
        return _run(messages, outputs, settings, span, beam_options)
    with _spooled(files, next(iter(outputs.folders), None), settings) as (spool, refused, results):
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
    def wired(root: beam.Pipeline) -> None:
        build(root, choose_sources(messages, outputs, span), choose_sinks(outputs, settings), settings)

    try:
        return Results.of(direct.run(wired, beam_options, pass_by_reference))
    except direct.TakenOptionError as error:
        raise WrongUse(str(error), "leave the option out") from error


def _about_rows(files: Files) -> int:
    plain = Files(tuple(path for path in files if path.endswith(("json", "jsonl")))).total_bytes
    return (plain + (files.total_bytes - plain) * COMPRESSION) // REPORT_BYTES


@contextmanager
def _spooled(
    files: Files, folder: Path | None, settings: Settings
) -> Iterator[tuple[Spool, list[pa.RecordBatch], Results]]:
    """The archives' messages by hour in a folder that goes when they are done with, and what was refused or failed at reading."""
    place = folder / _SPOOL if folder else Path(tempfile.mkdtemp(prefix="kpiflow-"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        spool = Spool(place)
        refused: list[pa.RecordBatch] = []
        results = Results()
        for block in read(files, settings.block_mb << 20, count_bytes, settings.max_payload_bytes):
            if isinstance(block, Unreadable):
                results += Results(incomplete=(f"{block.file} {block.reason}",))
                continue
            with stage_counters.time_stage("spool", block.raw.num_rows):
                spool.add(block.raw)
            if block.bad.num_rows:
                refused.append(quarantine_misfits(block.bad, make_rules(settings).limits))
        yield spool, refused, results
    finally:
        shutil.rmtree(place, ignore_errors=True)
