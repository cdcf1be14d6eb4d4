"""The streaming job on Dataflow: the same graph, translated, looked over, and handed to a service that runs it from then on.

Nothing of this machine goes along: no folder, no lock, no status files. What stays of the promises there, docs/sinks.md says.
"""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipelines.assembly import Live, connect_redis, gather_sinks, time_stream
from pipelines.failures import RunFailed, WrongUse
from pipelines.graph import Sources, build
from pipelines.jobs.stream import for_stream
from pipelines.outputs import Outputs, open_outputs, parse_outputs
from pipelines.settings import Settings
from runners.dataflow import launch
from runners.dataflow.launch import Dataflow, Report
from transforms.redis.connection import GroupTaken, Lease, RedisUnavailable


@dataclass(frozen=True)
class CloudJob:
    """What a streaming job on Dataflow is asked to do, beside the settings; `options` are of `runners.dataflow.launch` and of Beam."""

    url: str
    streams: tuple[str, ...]
    group: str
    outputs: tuple[str, ...]
    options: tuple[str, ...]
    live: bool = False


def dry_run(job: CloudJob, settings: Settings) -> Report:
    """The job as Dataflow would get it, and what keeps it from there. Nothing is connected to.

    Raises:
        WrongUse: an option is missing, or has another form; the graph cannot be translated.
    """
    options = _options(job)
    settings = _spread(settings, options)
    outputs = parse_outputs(job.outputs, settings)
    try:
        report = launch.dry_run(
            lambda root: _built(root, job, outputs, settings, options), options, _secrets(settings)
        )
    except launch.NotSubmitted as error:
        raise WrongUse(str(error)) from error
    return report.with_problems(launch.unreachable([job.url, *job.outputs]))


def submit(job: CloudJob, settings: Settings) -> tuple[str, str] | None:
    """Start the job: its id, and the URL of its page; None if only a template of it was made.

    Raises:
        WrongUse: `dry_run` finds a problem; Redis or an output cannot be used; another job has the group.
        RunFailed: Google Cloud does not take it.
    """
    options = _options(job)
    if problems := dry_run(job, settings).problems:
        raise WrongUse(f"Dataflow cannot run this: {problems[0]}", "`--dry-run` shows every problem")
    connection = connect_redis(job.url, settings)
    try:
        connection.check(job.streams)
        outputs, settings = open_outputs(job.outputs, _spread(settings, options), file_minutes=1)
        Lease(
            connection, job.group, job.streams, options.job_name
        ).acquire()  # the job's readers renew it from then on
        return launch.submit(
            lambda root: _built(root, job, outputs, settings, options), options, _secrets(settings)
        )
    except (RedisUnavailable, GroupTaken) as error:
        raise WrongUse(str(error)) from error
    except launch.NotSubmitted as error:
        raise RunFailed(str(error)) from error


def _options(job: CloudJob) -> Dataflow:
    try:
        return Dataflow.parsed(job.options)
    except (ValueError, launch.TakenOptionError) as error:
        raise WrongUse(
            str(error), "they follow `--`: kpiflow stream --runner dataflow ... -- --project=P ..."
        ) from error


def _spread(settings: Settings, options: Dataflow) -> Settings:
    """Settings whose shards give every worker something to do."""
    if "parallelism" not in settings.model_fields_set:
        settings = settings.model_copy(update={"parallelism": options.max_num_workers})
    return for_stream(settings)


def _built(
    root: beam.Pipeline, job: CloudJob, outputs: Outputs, settings: Settings, options: Dataflow
) -> None:
    # Dataflow calls a bundle back once it holds the rows itself, written or not: a place is told only when they long are.
    hold = max(outputs.gather_seconds, settings.patience_seconds)
    connection = connect_redis(job.url, settings)
    messages = Live(connection, job.streams, job.group, settings, options.job_name, None, hold)
    sinks = gather_sinks(outputs, settings, None, connection if job.live else None)
    build(root, Sources(messages), sinks, settings, time_stream(outputs, settings))


def _secrets(settings: Settings) -> list[str]:
    given: list[Any] = [getattr(settings, name) for name in Settings.secrets()]
    return [secret.get_secret_value() for secret in given if secret is not None]
