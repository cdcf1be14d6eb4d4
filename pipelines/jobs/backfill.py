"""The batch job: archives through the graph into outputs.

A run that dies can be run again: it has written whole files of rows with keys, and writing them again changes
nothing.
"""

from collections.abc import Sequence

import apache_beam as beam

from pipelines.assembly import ReadSource, make_batch_sinks, make_batch_timing, make_sources
from pipelines.graph import build
from pipelines.jobs.block_plan import estimate_reports, plan_blocks
from pipelines.jobs.cores import count_cores
from pipelines.jobs.derive_after import derive_outputs
from pipelines.jobs.engines import BatchEngine, Wire
from pipelines.jobs.lock import lock_for_batch
from pipelines.outputs import Outputs, open_outputs
from pipelines.settings import Settings
from pipelines.sources import archives_of
from transforms.core import stage_counters
from transforms.core.expiry import NOTHING, Expiry
from transforms.core.run_metrics import Results
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import ArchiveFiles


def backfill(
    files: ArchiveFiles, texts: Sequence[str], settings: Settings, span: Span, engine: BatchEngine
) -> Results:
    """Run the graph over archives into outputs; the number of messages, and the files that are incomplete.

    Raises:
        WrongUse: an output cannot be used, is being written by another job, or was made with other settings.
        OutputFull: no space is left; what was written is whole.
        Unavailable, Refused: an output did not accept rows; what was written is whole.
        RunFailed: the engine gave up; what was written is whole.
    """
    stage_counters.reset()
    outputs, settings = open_fitting_outputs(files, texts, settings)
    with lock_for_batch(*outputs.folders) as locks:
        results = fill_outputs(files, outputs, settings, span, engine, locks)
        derive_outputs(outputs, settings)
    return results


def open_fitting_outputs(
    files: ArchiveFiles, texts: Sequence[str], settings: Settings
) -> tuple[Outputs, Settings]:
    """The outputs of a batch, described and ready, and the settings that suit them and the archives.

    Raises: as `open_outputs` does.
    """
    settings, file_minutes = fit_settings(files, settings)
    return open_outputs(texts, settings, file_minutes=file_minutes)


def fit_settings(files: ArchiveFiles, settings: Settings) -> tuple[Settings, int]:
    """The settings with the blocks that suit the archives, unless they are given.

    And how many minutes a file of a new output should have.
    """
    workers = settings.workers or count_cores()
    plan = plan_blocks(estimate_reports(files), workers, settings.block_reports)
    fitting = {"workers": workers}
    if not settings.block_hours:
        fitting["block_hours"] = plan.blocks.hours
    if "shards" not in settings.model_fields_set:
        fitting["shards"] = plan.blocks.shards
    return settings.model_copy(update=fitting), plan.file_minutes


def fill_outputs(
    files: ArchiveFiles,
    outputs: Outputs,
    settings: Settings,
    span: Span,
    engine: BatchEngine,
    locks: tuple[int, ...],
) -> Results:
    """Run the graph over archives into outputs that this job has locked."""
    recall, expiry = outputs.main.has_reports(), outputs.read_expiry()
    wire = wire_batch(files, outputs, settings, span, recall, expiry)
    return engine.run(wire, next(iter(outputs.folders), None), locks)


def wire_batch(
    files: ArchiveFiles,
    outputs: Outputs,
    settings: Settings,
    span: Span,
    recall: bool,
    expiry: Expiry = NOTHING,
) -> Wire:
    """The graph over archives. `recall`: whether the main output may have reports already. `expiry`: what has
    expired there."""

    def wire(root: beam.Pipeline) -> None:
        messages = ReadSource(archives_of(files, settings).read(), settings)
        sources = make_sources(messages, outputs, settings, span, recall, expiry)
        build(root, sources, make_batch_sinks(outputs, settings), settings, make_batch_timing(settings))

    return wire
