"""Run a graph on Google Cloud Dataflow, by Beam's own DataflowRunner.

    flags = complete_flags(["--project=P", "--region=R", "--temp_location=gs://B/temp", ...], STREAM)
    graph = translate(build, flags)     # Beam's dry run: no network, no credentials
    submit(graph, flags)

A job's options are Beam's pipeline options. Needs the extra `dataflow`, which is apache-beam[gcp].
"""

import bz2
import ipaddress
import pickle
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.render import RenderOptions, RenderRunner

from runners.direct import TakenOptionError
from runners.pipeline import make_pipeline

_ONE_PROCESS, _SEVERAL_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"


@dataclass(frozen=True)
class Mode:
    """How a job runs.

    Attributes:
        defaults: options that the caller's replace.
        decided: options that the caller cannot set.
        one_process: whether a worker runs one Python process, and not one per vCPU.
    """

    defaults: tuple[str, ...]
    decided: tuple[str, ...] = ()
    one_process: bool = False


STREAM = Mode(("--job_name=kpiflow",), ("--streaming",), one_process=True)
"""Runs until it is drained. What a step keeps in memory of a key is there when the key comes again, since one
process has it."""
BATCH = Mode(("--job_name=kpiflow-backfill", "--number_of_worker_harness_threads=1"))
"""Ends with its input. A process works on one key at a time: a key is as much as should be in memory."""
DEFAULTS = (
    "--machine_type=n2-standard-2",
    "--num_workers=1",
    "--max_num_workers=4",
    "--autoscaling_algorithm=THROUGHPUT_BASED",
)
"""Options of every job that the caller's replace."""
DECIDED = ("--runner=DataflowRunner", "--no_save_main_session")
"""Options of every job that the caller cannot set."""
NEEDED = {
    "project": (r".+", "my-project"),
    "region": (r".+", "europe-west1"),
    "temp_location": (r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/\S*", "gs://bucket/folder"),
    "sdk_container_image": (
        r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})",
        "europe-west1-docker.pkg.dev/my-project/kpiflow/worker:1.0",
    ),
}
"""Options that a job must have: a regular expression of the whole value, and an example.

Beam checks the other options. Without a valid temp_location it would create a bucket. An image needs a tag
or a digest, since workers that start later must run the same code.
"""
_TAKEN = (*DECIDED, *STREAM.decided, "--dry_run")
_AT_LEAST_ONCE = "streaming_mode_at_least_once"
_PICKLE = re.compile(rb"(?:QlpoO|eJ|eN)[A-Za-z0-9+/]+")
"""Base64 text of bz2 or zlib data, as which Beam's pickler keeps everything."""


class NotSubmitted(RuntimeError):  # noqa: N818 (an end, not only an error)
    """The graph cannot be translated, a library is missing, or Google Cloud refuses."""


def complete_flags(flags: Sequence[str], mode: Mode) -> list[str]:
    """A job's options with kpiflow's defaults.

    `--experiments=use_multiple_sdk_containers` gives every job a Python process per vCPU.

    Raises:
        ValueError: a needed option is missing or has another form, or the mode would count reports twice.
        TakenOptionError: an option that is decided here.
    """
    given, fixed = ({flag.partition("=")[0] for flag in each} for each in (flags, _TAKEN))
    if taken := sorted(given & fixed):
        raise TakenOptionError(f"the Beam options {', '.join(taken)} are decided by kpiflow: leave them out")
    one_process = mode.one_process and f"--experiments={_SEVERAL_PROCESSES}" not in flags
    processes = [f"--experiments={_ONE_PROCESS}"] if one_process else []
    complete = [*DEFAULTS, *mode.defaults, *processes, *flags, *DECIDED, *mode.decided]
    options = _parse(complete).get_all_options()
    for name, (form, example) in NEEDED.items():
        value = options[name]
        if value is None or not re.fullmatch(form, value):
            problem = "is missing" if value is None else f"is {value!r}"
            raise ValueError(f"--{name} {problem}; for example --{name}={example}")
    if _AT_LEAST_ONCE in (options["dataflow_service_options"] or []):
        raise ValueError(f"{_AT_LEAST_ONCE} would count reports twice: leave it out")
    return complete


def read_option(flags: Sequence[str], name: str) -> Any:
    """The value of one of a job's options."""
    return _parse(flags).get_all_options()[name]


def translate(build: Callable[[beam.Pipeline], None], flags: Sequence[str]) -> protos.Pipeline:
    """The graph as Dataflow would get it, by a dry run of Beam's DataflowRunner.

    It needs no network and no credentials. With `--render_output=FILE` Beam also draws the graph: FILE.dot,
    or another format where Graphviz is installed.

    Raises:
        NotSubmitted: Beam refuses an option or the graph, or apache-beam[gcp] is not installed.
    """
    runner = DataflowRunner()
    options = _parse([*flags, "--dry_run=True", "--experiments=disable_logging_submission_environment"])
    options.view_as(GoogleCloudOptions).update = False  # Beam would ask the service for the running job
    try:
        pipeline = make_pipeline(runner, options)
        build(pipeline)
        pipeline.run()
        if options.view_as(RenderOptions).render_output:
            RenderRunner().run_portable_pipeline(runner.proto_pipeline, options)
    except ImportError as error:
        raise _not_installed(error) from error
    except (ValueError, TypeError, AttributeError, RuntimeError, OSError, pickle.PicklingError) as error:
        raise NotSubmitted(f"the graph cannot be translated for Dataflow: {error}") from error
    return runner.proto_pipeline


def submit(graph: protos.Pipeline, flags: Sequence[str]) -> str | None:
    """Start a job of a translated graph and return the URL of its page in the console, without waiting.

    None with `--template_location`: only a template is written.

    Raises:
        NotSubmitted: no credentials, Google Cloud refuses the job, or apache-beam[gcp] is not installed.
    """
    try:
        import google.auth
        from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise _not_installed(error) from error
    region, project = read_option(flags, "region"), read_option(flags, "project")
    try:
        google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0].refresh(Request())
        result: Any = DataflowRunner().run_pipeline(None, _parse(flags), graph)
    except GoogleAuthError as error:
        fix = "gcloud auth application-default login"
        raise NotSubmitted(f"no valid credentials for Google Cloud ({error}): {fix}") from error
    except (GoogleAPICallError, DataflowJobAlreadyExistsError, OSError, ValueError) as error:
        where = f"{read_option(flags, 'job_name')!r} in {project}, {region}"
        raise NotSubmitted(f"Google Cloud does not accept the job {where}: {error}") from error
    if not result.has_job:
        return None
    return f"https://console.cloud.google.com/dataflow/jobs/{region}/{result.job_id()}?project={project}"


def find_secrets(graph: protos.Pipeline, secrets: Iterable[str]) -> list[str]:
    """A problem for each step or coder that holds a secret: the graph is kept in Cloud Storage."""
    wanted = [secret.encode() for secret in secrets if secret]
    parts = graph.components
    payloads = [(step.unique_name, step.spec.payload) for step in parts.transforms.values()]
    payloads += [(f"coder {name}", coder.spec.payload) for name, coder in parts.coders.items()]
    fix = "holds a secret in clear, and the graph is kept in Cloud Storage; let the workers fetch it"
    return [
        f"{name} {fix}"
        for name, payload in payloads
        if any(secret in octets for octets in [payload, *_unpack(payload)] for secret in wanted)
    ]


def find_unreachable(names: Iterable[str]) -> list[str]:
    """A problem for each URL or path of this machine, which no worker can reach: files, sockets, loopback."""
    found = []
    for name in names:
        url = urlsplit(name)
        if "://" not in name or url.scheme in ("file", "unix"):
            found.append(f"{name} is a file of this machine; use a bucket or a server")
            continue
        servers = [url, *map(urlsplit, parse_qs(url.query).get("endpoint", []))]
        fix = "give the host's name or address in the workers' network"
        found += [
            f"{each.scheme}://{each.hostname} is this machine; {fix}"
            for each in servers
            if _is_loopback(each.hostname or "")
        ]
    return found


def _parse(flags: Sequence[str]) -> PipelineOptions:
    try:
        options = PipelineOptions(list(flags))
        options.get_all_options()  # parses them
    except SystemExit as error:  # argparse has written why
        raise ValueError("Beam does not understand an option of the job") from error
    return options


def _not_installed(error: ImportError) -> NotSubmitted:
    return NotSubmitted(f"Dataflow needs apache-beam[gcp]: pip install 'kpiflow[dataflow]' ({error})")


def _unpack(payload: bytes) -> Iterator[bytes]:
    """The pickles in a payload of the graph. What is no pickle after all is left out."""
    for packed in _PICKLE.findall(payload):
        with suppress(ValueError, OSError, zlib.error):
            # Bytes that happen to follow the base64 text come along; a decompressor object ignores them.
            octets = b64decode(packed + b"A" * (-len(packed) % 4))
            packer = bz2.BZ2Decompressor() if octets.startswith(b"BZh") else zlib.decompressobj()
            yield packer.decompress(octets)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
