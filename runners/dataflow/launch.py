"""Run a streaming graph on Google Cloud Dataflow; or translate it as a run would, see whether Dataflow can run it, and draw it.

    job = Dataflow("my-project", "europe-west1", "gs://bucket/temp", "IMAGE")
    console.print(dry_run(build, job))      # no network, no credentials; `.problems` says what is amiss
    submit(build, job)                      # needs apache-beam[gcp] and credentials

What Dataflow can run is taken from Beam's capability matrix (beam.apache.org/documentation/runners/capability-matrix: its pages on
what is computed, on triggers and on unbounded splittable DoFns), from Dataflow's pages on streaming modes, exactly-once and custom
containers (cloud.google.com/dataflow/docs), from what Beam's DataflowRunner refuses, and where these are silent from Beam's issues:
sorted lists (#20666) and multimaps (#23616) in state are open. What none of them names is reported, not guessed at.

Exactly once: results within the graph count once, but a bundle may be worked on twice, so writes outside may be repeated. At least
once: a record may come again at any step and is applied again. A step that knows its records by key bears that, and so does a write
of rows by key. A sum or a count does not: a graph that combines is refused in that mode.
"""

import ipaddress
import pickle
import re
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NoReturn
from urllib.parse import urlsplit

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.transforms import environments

from runners.dataflow.portable import Finding, Report, look_over
from runners.direct import TakenOptionError
from runners.pipeline import new_pipeline

Build = Callable[[beam.Pipeline], None]

_BUCKET = r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/\S+"
FORMS = {
    "project": (r"[a-z][-a-z0-9:.]+[a-z0-9]", "my-project (the id, not the number)"),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "europe-west1"),
    "temp_location": (_BUCKET, "gs://bucket/folder"),
    "staging_location": (_BUCKET, "gs://bucket/folder"),
    "sdk_container_image": (
        r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})",
        "europe-west1-docker.pkg.dev/my-project/kpiflow/worker:1.0",
    ),
    "job_name": (r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "kpiflow-eu (small letters, digits and -; at most 63)"),
    "service_account_email": (
        r"[^@\s]+@[^@\s]+\.gserviceaccount\.com",
        "NAME@PROJECT.iam.gserviceaccount.com",
    ),
    "subnetwork": (r"\S*regions/[^/\s]+/subnetworks/[^/\s]+", "regions/REGION/subnetworks/NAME"),
    "labels": (r"[a-z][-_a-z0-9]{0,62}=[-_a-z0-9]{0,63}", "team=kpi"),
}
"""The form of some options: a regular expression of the whole, and an example. The image needs a tag or a digest, since workers
that start later must run the same code."""
_TAKEN = frozenset(
    {
        "--runner",
        "--streaming",
        "--environment_type",
        "--environment_config",
        "--environment_options",
        "--dry_run",
    }
)


class NotSubmitted(RuntimeError):  # noqa: N818 (an end, not only an error)
    """There is no job: the graph cannot be run, something is not installed, or Google Cloud refuses. The message has the mend."""


@dataclass(frozen=True)
class Dataflow:
    """A job on Dataflow. Names are those of Beam's options, which also say more about each.

    Streaming Engine is always on, as for every stream in Python; Dataflow Prime is off.

    Attributes:
        project, region: where it runs and is billed.
        temp_location: a folder in Cloud Storage (gs://), of the same region.
        sdk_container_image: the workers' image, with kpiflow in it: deploy/dataflow/worker.Dockerfile.
        job_name: one job of a name runs at a time in a region.
        staging_location: where the graph is kept, if not in `temp_location`. Whoever can read it can read all that steps hold.
        service_account_email: whom the workers are; else the project's default account, which may do too much.
        network, subnetwork: of the workers; one from which every source and output can be reached.
        use_public_ips: give workers public addresses; without them the subnetwork needs Private Google Access.
        machine_type: of a worker. One process uses about one vCPU, and Dataflow's own part another.
        num_workers, max_num_workers: the least workers, which it begins with, and the most.
        one_process: one Python process a worker, not one a vCPU, so that what a step keeps in memory of a key is there when the key
            comes again; elsewhere it has to be made again from state.
        exactly_once: else at least once, which is cheaper; see this module for what then holds.
        update: take the place of the running job of this name and go on from its state.
        labels: KEY=VALUE each, for bills.
        beam_options: more options of Beam, after these.

    Raises:
        ValueError: a value does not have the form that it must have.
        TakenOptionError: `beam_options` has an option that is decided here.
    """

    project: str
    region: str
    temp_location: str
    sdk_container_image: str
    job_name: str = "kpiflow"
    staging_location: str | None = None
    service_account_email: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    use_public_ips: bool = True
    machine_type: str = "n2-standard-2"
    num_workers: int = 1
    max_num_workers: int = 4
    one_process: bool = True
    exactly_once: bool = True
    update: bool = False
    labels: tuple[str, ...] = ()
    beam_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (form, example) in FORMS.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not re.fullmatch(form, value):
                    raise ValueError(f"{name} is {value!r}; write it like {example}")
        if not 1 <= self.num_workers <= self.max_num_workers <= 1000:
            asked = f"{self.num_workers} to {self.max_num_workers} workers"
            raise ValueError(
                f"{asked} cannot be: num_workers is at least 1, max_num_workers at least that and at most 1000"
            )
        own = _TAKEN | {f"--{field.name}" for field in fields(self)}
        if taken := sorted({option.partition("=")[0] for option in self.beam_options} & own):
            raise TakenOptionError(
                f"the Beam options {', '.join(taken)} are taken: leave them out, or use kpiflow's own options"
            )

    @classmethod
    def parsed(cls, words: Sequence[str]) -> "Dataflow":
        """The job that options mean: attributes as `--name=value`, or `--name` and `--no_name`; the others are Beam's.

        Raises:
            ValueError: an option that must be given is not, or a value has another form.
            TakenOptionError: see there.
        """
        parser = _Parser(allow_abbrev=False, add_help=False, argument_default=SUPPRESS)
        for field in fields(cls):
            if isinstance(field.default, bool):
                parser.add_argument(f"--{field.name}", action="store_true")
                parser.add_argument(f"--no_{field.name}", action="store_false", dest=field.name)
            elif field.name != "beam_options":
                kind = int if isinstance(field.default, int) else str
                action = "append" if isinstance(field.default, tuple) else "store"
                parser.add_argument(
                    f"--{field.name}", required=field.default is MISSING, type=kind, action=action
                )
        known, beams = parser.parse_known_args(words)
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()
        }
        return cls(**given, beam_options=tuple(beams))

    def arguments(self) -> list[str]:
        """The job as Beam's options."""
        apart = ("use_public_ips", "one_process", "exactly_once", "update", "labels", "beam_options")
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
        services = [
            f"min_num_workers={self.num_workers}",
            *([] if self.exactly_once else ["streaming_mode_at_least_once"]),
        ]
        return [
            "--streaming",
            "--no_save_main_session",
            "--autoscaling_algorithm=THROUGHPUT_BASED",
            *(f"--{name}={value}" for name, value in named.items() if value is not None),
            *(f"--dataflow_service_options={service}" for service in services),
            *(["--experiments=no_use_multiple_sdk_containers"] if self.one_process else []),
            *([] if self.use_public_ips else ["--no_use_public_ips"]),
            *(["--update"] if self.update else []),
            *(f"--labels={label}" for label in self.labels),
            *self.beam_options,
        ]

    def __str__(self) -> str:
        mode = "exactly once" if self.exactly_once else "at least once"
        workers = f"{self.num_workers} to {self.max_num_workers} {self.machine_type}"
        return f"{self.job_name} in {self.project}, {self.region}: {mode}, {workers}"


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def dry_run(build: Build, job: Dataflow, secrets: Sequence[str] = ()) -> Report:
    """Translate the graph as a run would, and look it over; `secrets` are texts that must not be in it.

    Raises:
        NotSubmitted: it cannot be translated.
    """
    return look_over(translate(build, job), str(job), job.exactly_once, secrets)


def translate(build: Build, job: Dataflow) -> protos.Pipeline:
    """The graph in Beam's portable form, made as DataflowRunner makes it.

    Raises:
        NotSubmitted: it cannot be: a key has no deterministic coder, for example, or a step cannot be pickled.
    """
    runner = _Translation(job.sdk_container_image)
    pipeline = new_pipeline(runner, PipelineOptions([*job.arguments(), "--dry_run=True"]))
    build(pipeline)
    try:
        pipeline.run()
    except (ValueError, TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise NotSubmitted(f"the graph cannot be translated for Dataflow: {error}") from error
    return runner.translated


class _Translation(DataflowRunner):
    """DataflowRunner up to where it needs Google's libraries."""

    def __init__(self, image: str) -> None:
        super().__init__()
        self.image = image

    def run_pipeline(self, pipeline: Any, options: Any, pipeline_proto: Any = None) -> Any:
        for visitor in (self.combinefn_visitor(), self.side_input_visitor()):
            pipeline.visit(visitor)
        pipeline.replace_all(self._PTRANSFORM_OVERRIDES)
        self._adjust_pipeline_for_dataflow_v2(pipeline)
        docker = environments.DockerEnvironment.from_container_image(self.image)
        self.translated: protos.Pipeline = pipeline.to_runner_api(default_environment=docker)


def submit(build: Build, job: Dataflow, secrets: Sequence[str] = ()) -> tuple[str, str] | None:
    """Start the job and return, not waiting for it: its id, and the URL of its page. None if only a template was asked for.

    Raises:
        NotSubmitted: see there.
    """
    graph = translate(build, job)
    if problems := look_over(graph, str(job), job.exactly_once, secrets).problems:
        raise NotSubmitted("Dataflow cannot run this: " + "\n".join(map(str, problems)))
    try:
        import google.auth
        from apache_beam.runners.dataflow.internal import apiclient
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise NotSubmitted(
            f"Dataflow needs {error.name}, which is not installed: pip install 'kpiflow[dataflow]'"
        ) from error
    try:
        google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0].refresh(Request())
        result: Any = DataflowRunner().run_pipeline(None, PipelineOptions(job.arguments()), graph)
    except GoogleAuthError as error:
        raise NotSubmitted(
            f"no valid credentials of Google Cloud ({error}): gcloud auth application-default login"
        ) from error
    except (GoogleAPICallError, apiclient.DataflowJobAlreadyExistsError, OSError, ValueError) as error:
        where = f"{job.job_name!r} in {job.project}, {job.region}"
        raise NotSubmitted(f"Google Cloud does not take the job {where}: {error}") from error
    if not result.has_job:
        return None
    return (
        result.job_id(),
        f"https://console.cloud.google.com/dataflow/jobs/{job.region}/{result.job_id()}?project={job.project}",
    )


def unreachable(names: Iterable[str]) -> list[Finding]:
    """Which URLs and paths a worker cannot reach, because they mean something of this machine: files, sockets, loopback hosts."""
    found = []
    for name in names:
        url = urlsplit(name)
        if "://" not in name or url.scheme in ("file", "unix"):
            found.append(Finding(name, "is a file of this machine", "use a bucket or a server"))
        elif _is_loopback(url.hostname or ""):
            where = f"{url.scheme}://{url.hostname}"
            found.append(
                Finding(where, "is this machine", "give the host's name or address in the workers' network")
            )
    return found


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
