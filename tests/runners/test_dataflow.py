"""What Dataflow would get: a job's options, the translated stream and backfill; the errors without a job."""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import google.auth
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.dataflow import internal
from google.api_core.exceptions import PermissionDenied
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from pipelines import graph
from pipelines.assembly import ReadSource, make_stream_sinks, make_stream_timing
from pipelines.connections import connect_redis
from pipelines.jobs.dataflow_backfill import CloudBackfill
from pipelines.outputs import parse_outputs
from pipelines.settings import Settings
from pipelines.sources import parse_live_source
from runners.dataflow import (
    BATCH,
    STREAM,
    Mode,
    NotSubmitted,
    complete_flags,
    find_secrets,
    find_unreachable,
    submit,
    translate,
)
from runners.direct import TakenOptionError
from transforms.sinks.publish import LiveStreams
from transforms.sources.source import Reading

IMAGE = "europe-west1-docker.pkg.dev/my-project/kpiflow/worker:1.0"
NEEDED = ["--project=my-project", "--region=europe-west1", "--temp_location=gs://bucket/temp"]
NEEDED += [f"--sdk_container_image={IMAGE}"]
FLAGS, BATCH_FLAGS = complete_flags(NEEDED, STREAM), complete_flags(NEEDED, BATCH)
SETTINGS = Settings(redis_password="open sesame", parallelism=2, shards=8)
APICLIENT = "apache_beam.runners.dataflow.internal.apiclient"
INSTALLED = find_spec("google.cloud.dataflow_v1beta3") is not None


class AlreadyRunsError(Exception):
    """What Google's client raises for a job that runs already."""


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for Beam's client of Dataflow, whose service accepts every job; and valid credentials."""
    accepted = SimpleNamespace(jobs=[])

    def create_job(job: Any) -> Any:
        accepted.jobs.append(job)
        return SimpleNamespace(id="2026-01-02_03_04_05-6")

    client = SimpleNamespace(
        Job=lambda options, graph: SimpleNamespace(options=options, graph=graph, root_staging_location=""),
        DataflowApplicationClient=lambda options, root: SimpleNamespace(create_job=create_job),
        DataflowJobAlreadyExistsError=AlreadyRunsError,
        get_container_image_from_options=lambda options: IMAGE,
    )
    install(monkeypatch, client)
    credentials = SimpleNamespace(refresh=lambda request: None)
    monkeypatch.setattr(google.auth, "default", lambda scopes: (credentials, "my-project"))
    accepted.client = client
    return accepted


def install(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    monkeypatch.setitem(sys.modules, APICLIENT, client)
    monkeypatch.setattr(internal, "apiclient", client, raising=False)


NAMES = ("gs://bucket/kpis", "victoriametrics+http://metrics:8428")


def stream(root: beam.Pipeline) -> None:
    """The graph of a stream with all that one can have on Dataflow."""
    outputs = parse_outputs(NAMES, SETTINGS)
    url, settings = "rediss://10.0.0.3:6379", SETTINGS.model_copy(update={"redis_password": None})
    source = parse_live_source(url, ("eu", "us"), "kpiflow", settings)
    live = ReadSource(source.read(Reading("kpiflow", hold_seconds=outputs.gather_seconds)), SETTINGS)
    sinks = make_stream_sinks(outputs, SETTINGS, None, LiveStreams(connect_redis(url, settings), 1000))
    graph.build(root, graph.Sources(live), sinks, SETTINGS, make_stream_timing(outputs, SETTINGS))


backfill = CloudBackfill(("gs://bucket/archive",), NAMES, ()).plan(SETTINGS, BATCH_FLAGS)
"""The graph of a backfill into an output that may have reports."""


def one_step(root: beam.Pipeline) -> None:
    _ = root | beam.Impulse() | "Take" >> beam.Map(len)


def test_the_stream_asks_for_nothing_but_what_dataflow_is_known_to_meet() -> None:
    """All of it is in Beam's capability matrix: state in bags and values, splittable DoFns, finalization."""
    translated = translate(stream, FLAGS)
    required = {urn.split(":")[-2] for urn in translated.requirements}
    assert required == {"stateful", "finalization", "splittable_dofn"}
    images = {environment.payload for environment in translated.components.environments.values()}
    assert images == {protos.DockerPayload(container_image=IMAGE).SerializeToString()}
    pardo = common_urns.primitives.PAR_DO.urn
    steps = [step for step in translated.components.transforms.values() if step.spec.urn == pardo]
    dofns = [protos.ParDoPayload.FromString(step.spec.payload) for step in steps]
    kinds = {spec.WhichOneof("spec") for dofn in dofns for spec in dofn.state_specs.values()}
    assert kinds == {"bag_spec", "read_modify_write_spec"}


def test_no_step_of_a_backfill_is_of_a_stream() -> None:
    translated = translate(backfill, BATCH_FLAGS)
    assert list(translated.requirements) == []  # neither state nor timers
    parts = translated.components
    unbounded = protos.IsBounded.UNBOUNDED
    assert [name for name, rows in parts.pcollections.items() if rows.is_bounded == unbounded] == []
    windows = {
        (each.window_fn.urn, each.trigger.WhichOneof("trigger"))
        for each in parts.windowing_strategies.values()
    }
    assert windows == {("beam:window_fn:global_windows:v1", "default")}
    names = {step.unique_name for step in parts.transforms.values()}
    assert {"Recall", "History", "Write/Write kpi_reports to 0", "Write/Write kpi_fleet to 1"} <= names


@pytest.mark.skipif(not INSTALLED, reason="apache-beam[gcp] is not installed")
@pytest.mark.parametrize(
    ("build", "flags"), [(stream, [*FLAGS, "--update"]), (backfill, BATCH_FLAGS)], ids=["stream", "backfill"]
)
def test_the_real_client_gives_the_same_graph(
    build: Callable[[beam.Pipeline], None], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = translate(build, flags)
    monkeypatch.delitem(sys.modules, APICLIENT)
    monkeypatch.delattr(internal, "apiclient")
    translated = translate(build, flags)
    assert sorted(translated.components.transforms) == sorted(expected.components.transforms)
    assert translated.requirements == expected.requirements


def test_beam_draws_the_graph_where_it_is_asked_to(tmp_path: Path) -> None:
    translate(one_step, [*FLAGS, f"--render_output={tmp_path / 'graph.dot'}"])
    drawn = (tmp_path / "graph.dot").read_text()
    assert drawn.startswith("digraph")
    assert "Take" in drawn


def test_a_secret_in_the_graph_is_found_with_its_step() -> None:
    def build(root: beam.Pipeline) -> None:
        connection = connect_redis("redis://h", SETTINGS)
        _ = root | beam.Impulse() | "Tell" >> beam.Map(lambda _, client: client.public, connection)

    found = find_secrets(translate(build, FLAGS), ["open sesame", ""])
    assert "Tell holds a secret in clear" in found[0]
    assert "open sesame" not in str(found)
    assert find_secrets(translate(stream, FLAGS), ["open sesame", ""]) == []
    assert find_secrets(translate(backfill, BATCH_FLAGS), ["open sesame", ""]) == []


def group_batches(root: beam.Pipeline) -> None:
    batches = root | beam.Impulse() | beam.Map(lambda _: ()).with_output_types(tuple[pa.RecordBatch, int])
    _ = batches | "Group" >> beam.GroupByKey()


def pickle_a_lock(root: beam.Pipeline) -> None:
    _ = root | beam.Impulse() | "Lock" >> beam.Map(lambda _, file: None, sys.stdout.buffer)


@pytest.mark.parametrize(
    ("build", "cause"), [(group_batches, "Group"), (pickle_a_lock, "cannot pickle")], ids=["key", "step"]
)
def test_a_graph_that_beam_cannot_translate_is_an_error_with_the_cause(
    build: Callable[[beam.Pipeline], None], cause: str
) -> None:
    with pytest.raises(NotSubmitted, match=f"cannot be translated for Dataflow.*{cause}"):
        translate(build, FLAGS)


def test_options_of_the_caller_replace_the_defaults() -> None:
    given = ["--job_name=kpis", "--max_num_workers=9", "--no_use_public_ips", "--labels=team=kpi"]
    options = PipelineOptions(complete_flags([*NEEDED, *given], STREAM)).get_all_options()
    names = (
        "job_name",
        "num_workers",
        "max_num_workers",
        "use_public_ips",
        "labels",
        "streaming",
        "experiments",
    )
    assert [options[name] for name in names] == [
        "kpis", 1, 9, False, ["team=kpi"], True, ["no_use_multiple_sdk_containers"],
    ]  # fmt: skip


def test_a_backfill_is_no_stream_and_has_a_process_for_each_core_with_one_key_at_a_time() -> None:
    options = PipelineOptions(BATCH_FLAGS).get_all_options()
    names = ("streaming", "job_name", "experiments", "number_of_worker_harness_threads")
    assert [options[name] for name in names] == [False, "kpiflow-backfill", None, 1]
    given = [*NEEDED, "--job_name=kpis", "--number_of_worker_harness_threads=2"]
    options = PipelineOptions(complete_flags(given, BATCH)).get_all_options()
    assert [options[name] for name in names] == [False, "kpis", None, 2]


@pytest.mark.parametrize("mode", [STREAM, BATCH], ids=["stream", "batch"])
def test_several_processes_a_worker_can_be_asked_for(mode: Mode) -> None:
    flags = complete_flags([*NEEDED, "--experiments=use_multiple_sdk_containers"], mode)
    assert PipelineOptions(flags).get_all_options()["experiments"] == ["use_multiple_sdk_containers"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (NEEDED[1:], "--project is missing; for example --project=my-project"),
        ([NEEDED[0], *NEEDED[2:]], "--region is missing"),
        ([*NEEDED, "--temp_location=/tmp"], "--temp_location is '/tmp'; for example --temp_location=gs://"),
        ([*NEEDED, "--temp_location=gs://bucket"], "--temp_location is 'gs://bucket'"),
        ([*NEEDED, "--sdk_container_image=a.dev/p/worker"], "worker:1.0"),
        ([*NEEDED, "--runner=DirectRunner", "--streaming"], "--runner, --streaming are decided by kpiflow"),
        ([*NEEDED, "--dataflow_service_options=streaming_mode_at_least_once"], "would count reports twice"),
        ([*NEEDED, "--num_workers=many"], "Beam does not understand an option"),
    ],
)
@pytest.mark.parametrize("mode", [STREAM, BATCH], ids=["stream", "batch"])
def test_options_that_cannot_be_are_refused_with_an_example(
    flags: list[str], problem: str, mode: Mode
) -> None:
    with pytest.raises((ValueError, TakenOptionError), match=re.escape(problem)):
        complete_flags(flags, mode)


@pytest.mark.parametrize(
    ("flag", "problem"),
    [("--project=123456", "123456"), ("--job_name=Kpis", "Kpis"), ("--num_workers=5", "5")],
)
def test_what_beam_finds_wrong_with_options_is_passed_on(flag: str, problem: str) -> None:
    with pytest.raises(NotSubmitted, match=problem):
        translate(one_step, complete_flags([*NEEDED, flag], STREAM))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("s3://bucket/kpis?endpoint=http://127.0.0.1:9000", "http://127.0.0.1 is this machine"),
        ("/data/tables", "is a file of this machine"),
        ("tables", "is a file of this machine"),
        ("file:///data", "is a file of this machine"),
        ("unix:///run/redis.sock", "is a file of this machine"),
        ("redis://localhost:6379", "is this machine"),
        ("rediss://127.0.0.53", "is this machine"),
        ("victoriametrics+http://[::1]:8428", "is this machine"),
        ("influxdb+http://0.0.0.0:8086/b?org=o", "is this machine"),
        ("redis://user:secret@redis.localhost", "is this machine"),
    ],
)
def test_what_workers_cannot_reach_is_found_and_named_without_its_password(name: str, problem: str) -> None:
    (found,) = find_unreachable([name])
    assert problem in found
    assert "secret" not in found


def test_what_workers_can_reach_is_no_problem() -> None:
    names = ["rediss://10.0.0.3:6379", "gs://bucket/kpis", "bigquery://p/d", "redis://localhost.example.com"]
    assert find_unreachable(names) == []


@pytest.mark.parametrize(
    ("build", "flags"), [(stream, FLAGS), (backfill, BATCH_FLAGS)], ids=["stream", "backfill"]
)
def test_a_job_is_submitted_as_it_was_translated(
    build: Callable[[beam.Pipeline], None], flags: list[str], service: SimpleNamespace
) -> None:
    translated = translate(build, flags)
    assert submit(translated, flags) == (
        "https://console.cloud.google.com/dataflow/jobs/europe-west1/2026-01-02_03_04_05-6?project=my-project"
    )
    (job,) = service.jobs
    assert job.graph.components.transforms == translated.components.transforms
    options = job.options.get_all_options()
    assert ("enable_streaming_engine" in options["experiments"]) is (build is stream)
    assert options["streaming"] is (build is stream)
    assert not options["save_main_session"]


def test_a_template_has_no_job(service: SimpleNamespace) -> None:
    service.client.DataflowApplicationClient = lambda options, root: SimpleNamespace(
        create_job=lambda job: None
    )
    flags = complete_flags([*NEEDED, "--template_location=gs://bucket/template"], STREAM)
    assert submit(translate(one_step, flags), flags) is None


@pytest.mark.parametrize(
    "error",
    [
        AlreadyRunsError("there is one"),
        PermissionDenied("no dataflow.jobs.create"),
        OSError("no such bucket"),
    ],
)
def test_a_job_that_google_refuses_is_an_error_with_the_reason(
    error: Exception, service: SimpleNamespace
) -> None:
    def refuse(job: Any) -> None:
        raise error

    service.client.DataflowApplicationClient = lambda options, root: SimpleNamespace(create_job=refuse)
    where = f"does not accept the job 'kpiflow' in my-project, europe-west1: .*{error}"
    with pytest.raises(NotSubmitted, match=where):
        submit(translate(one_step, FLAGS), FLAGS)


@pytest.mark.parametrize("error", [DefaultCredentialsError("none found"), RefreshError("expired")])
def test_missing_credentials_are_an_error_with_the_fix(
    error: Exception, service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default(scopes: list[str]) -> None:
        raise error

    monkeypatch.setattr(google.auth, "default", default)
    told = f"no valid credentials for Google Cloud ({error}): gcloud auth application-default login"
    with pytest.raises(NotSubmitted, match=re.escape(told)):
        submit(translate(one_step, FLAGS), FLAGS)
    assert service.jobs == []


@pytest.mark.parametrize(
    "call", [lambda: translate(one_step, FLAGS), lambda: submit(protos.Pipeline(), FLAGS)]
)
def test_missing_libraries_are_an_error_with_the_fix(
    call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, APICLIENT, None)
    monkeypatch.delattr(internal, "apiclient", raising=False)
    with pytest.raises(NotSubmitted, match=r"pip install 'kpiflow\[dataflow\]'"):
        call()
