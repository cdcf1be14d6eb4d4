"""Jobs on Google Cloud Dataflow: a graph is translated, checked, and handed to the service.

Nothing of this machine takes part: no folder, no lock, no status files. `deploy/dataflow/README.md` says
which guarantees remain. The jobs are `dataflow_stream.CloudStream` and `dataflow_backfill.CloudBackfill`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from apache_beam.portability.api import beam_runner_api_pb2 as protos

from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.engines import Wire
from pipelines.settings import Settings
from runners import dataflow
from transforms.core.errors import Refused, Unavailable
from transforms.sources.source import GroupTaken


class CloudJob(Protocol):
    """What a job on Dataflow is asked to do, beside the settings; `options` are Beam's."""

    mode: ClassVar[dataflow.Mode]

    @property
    def options(self) -> Sequence[str]: ...

    def list_places(self) -> list[str]:
        """The URLs and paths of what the job reads and writes: the workers must reach all of them."""

    def plan(self, settings: Settings, flags: Sequence[str]) -> Wire:
        """The job's graph, as far as it is known without a connection.

        Raises:
            WrongUse: the URL of a source or an output has another form.
        """

    def open(self, settings: Settings, flags: Sequence[str]) -> Wire:
        """The job's graph, with inputs that were found and outputs that were described and are ready.

        Raises:
            WrongUse: an input or an output cannot be used.
            Refused, Unavailable: a server does not give what it is asked for, or does not answer.
            GroupTaken: another job reads for the same group.
        """


def dry_run(job: CloudJob, settings: Settings) -> list[str]:
    """Translate the job and return what would keep it from running on Dataflow. Nothing is connected to.

    Raises:
        WrongUse: an option is missing or has another form; the graph cannot be translated.
    """
    flags = _complete_flags(job)
    graph = _translate(job.plan(settings, flags), flags)
    given: list[Any] = [getattr(settings, name) for name in Settings.secrets()]
    secrets = [secret.get_secret_value() for secret in given if secret is not None]
    return [*dataflow.find_unreachable(job.list_places()), *dataflow.find_secrets(graph, secrets)]


def submit(job: CloudJob, settings: Settings) -> str | None:
    """Start the job and return the URL of its page. None if only a template of it was written.

    Raises:
        WrongUse: `dry_run` finds a problem; an input or output cannot be used, or another job has it.
        RunFailed: Google Cloud does not accept it.
    """
    flags = _complete_flags(job)
    if problems := dry_run(job, settings):
        raise WrongUse(f"Dataflow cannot run this: {problems[0]}", "`--dry-run` shows every problem")
    try:
        return dataflow.submit(_translate(job.open(settings, flags), flags), flags)
    except (Refused, Unavailable, GroupTaken) as error:
        raise WrongUse(str(error)) from error
    except dataflow.NotSubmitted as error:
        raise RunFailed(str(error)) from error


def _complete_flags(job: CloudJob) -> list[str]:
    try:
        return dataflow.complete_flags(job.options, job.mode)
    except (ValueError, dataflow.TakenOptionError) as error:
        fix = "they follow `--`: kpiflow COMMAND --runner dataflow ... -- --project=P ..."
        raise WrongUse(str(error), fix) from error


def _translate(wire: Wire, flags: Sequence[str]) -> protos.Pipeline:
    try:
        return dataflow.translate(wire, flags)
    except dataflow.NotSubmitted as error:
        raise WrongUse(str(error)) from error
