"""The streaming job on Google Cloud Dataflow: the same graph, translated, checked, and handed to the service.

Nothing of this machine takes part: no folder, no lock, no status files. `deploy/dataflow/README.md` says
which guarantees remain.
"""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.portability.api import beam_runner_api_pb2 as protos

from pipelines.assembly import ReadSource, make_stream_sinks, make_stream_timing
from pipelines.failures import RunFailed, WrongUse
from pipelines.graph import Sources, build
from pipelines.jobs.stream_job import fit_settings
from pipelines.outputs import Outputs, open_outputs, parse_live_streams, parse_outputs
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from runners import dataflow
from transforms.core.errors import Unavailable
from transforms.sources.source import GroupTaken, LiveSource, Reading


@dataclass(frozen=True)
class CloudJob:
    """What a streaming job on Dataflow is asked to do, beside the settings; `options` are Beam's."""

    url: str
    streams: tuple[str, ...]
    group: str
    outputs: tuple[str, ...]
    options: tuple[str, ...]
    live: bool = False


def dry_run(job: CloudJob, settings: Settings) -> list[str]:
    """Translate the job and return what would keep it from running on Dataflow. Nothing is connected to.

    Raises:
        WrongUse: an option is missing or has another form; the graph cannot be translated.
    """
    flags = _complete_flags(job)
    graph = _translate(job, parse_outputs(job.outputs, settings), _spread(settings, flags), flags)
    given: list[Any] = [getattr(settings, name) for name in Settings.secrets()]
    secrets = [secret.get_secret_value() for secret in given if secret is not None]
    unreachable = dataflow.find_unreachable([job.url, *job.outputs])
    return [*unreachable, *dataflow.find_secrets(graph, secrets)]


def submit(job: CloudJob, settings: Settings) -> str | None:
    """Start the job and return the URL of its page. None if only a template of it was written.

    Raises:
        WrongUse: `dry_run` finds a problem; the source or an output cannot be used, or another job has it.
        RunFailed: Google Cloud does not accept it.
    """
    flags = _complete_flags(job)
    if problems := dry_run(job, settings):
        raise WrongUse(f"Dataflow cannot run this: {problems[0]}", "`--dry-run` shows every problem")
    source = _parse_source(job, settings)
    try:
        source.verify_access()
        outputs, settings = open_outputs(job.outputs, _spread(settings, flags), file_minutes=1)
        source.lease(dataflow.read_option(flags, "job_name")).acquire()  # the job's readers renew it
        return dataflow.submit(_translate(job, outputs, settings, flags), flags)
    except (Unavailable, GroupTaken) as error:
        raise WrongUse(str(error)) from error
    except dataflow.NotSubmitted as error:
        raise RunFailed(str(error)) from error


def _complete_flags(job: CloudJob) -> list[str]:
    try:
        return dataflow.complete_flags(job.options)
    except (ValueError, dataflow.TakenOptionError) as error:
        fix = "they follow `--`: kpiflow stream --runner dataflow ... -- --project=P ..."
        raise WrongUse(str(error), fix) from error


def _spread(settings: Settings, flags: list[str]) -> Settings:
    """Settings whose shards give every worker something to do."""
    if "parallelism" not in settings.model_fields_set:
        settings = settings.model_copy(update={"parallelism": dataflow.read_option(flags, "max_num_workers")})
    return fit_settings(settings)


def _translate(job: CloudJob, outputs: Outputs, settings: Settings, flags: list[str]) -> protos.Pipeline:
    # Dataflow finalizes a bundle as soon as it has stored the rows itself, whether or not they are written.
    # So an entry is committed only when its rows have long been written.
    hold = max(outputs.gather_seconds, settings.patience_seconds)
    reading = Reading(dataflow.read_option(flags, "job_name"), hold_seconds=hold)
    live = parse_live_streams(job.url, settings) if job.live else None

    def wire(root: beam.Pipeline) -> None:
        messages = ReadSource(_parse_source(job, settings).read(reading), settings)
        sinks = make_stream_sinks(outputs, settings, None, live)
        build(root, Sources(messages), sinks, settings, make_stream_timing(outputs, settings))

    try:
        return dataflow.translate(wire, flags)
    except dataflow.NotSubmitted as error:
        raise WrongUse(str(error)) from error


def _parse_source(job: CloudJob, settings: Settings) -> LiveSource:
    return parse_live_source(job.url, job.streams, job.group, settings)
