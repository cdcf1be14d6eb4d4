"""What Dataflow would get: a stream, graphs that it cannot run, a job's options, and what is told where there is no job."""

import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import google.auth
import pyarrow as pa
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.dataflow import internal as dataflow_internal
from apache_beam.testing.test_stream import TestStream as Scripted
from apache_beam.transforms import window
from apache_beam.transforms.userstate import BagStateSpec, OrderedListStateSpec
from google.api_core.exceptions import PermissionDenied
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from rich.console import Console

from pipelines import graph
from pipelines.assembly import Live, connect_redis, gather_sinks, time_stream
from pipelines.outputs import Outputs, parse_sink
from pipelines.settings import Settings
from runners.dataflow.launch import Build, Dataflow, NotSubmitted, dry_run, submit, translate, unreachable
from runners.dataflow.portable import Report, look_over
from runners.direct import TakenOptionError
from transforms.sinks.publish import PublishLive

JOB = Dataflow(
    "my-project",
    "europe-west1",
    "gs://bucket/temp",
    "europe-west1-docker.pkg.dev/my-project/kpiflow/worker:1.0",
)
SETTINGS = Settings(redis_password="open sesame", parallelism=2, shards=8)
APICLIENT = "apache_beam.runners.dataflow.internal.apiclient"


def streamed(root: beam.Pipeline) -> None:
    """The graph of a stream with all that one can have on Dataflow."""
    outputs = Outputs(
        tuple(
            parse_sink(text, SETTINGS) for text in ("gs://bucket/kpis", "victoriametrics+http://metrics:8428")
        )
    )
    connection = connect_redis("rediss://10.0.0.3:6379", SETTINGS.model_copy(update={"redis_password": None}))
    sources = graph.Sources(
        Live(connection, ("eu", "us"), "kpiflow", SETTINGS, "kpiflow", None, outputs.gather_seconds)
    )
    sinks = replace(gather_sinks(outputs, SETTINGS, None), live=PublishLive(connection, 1000))
    graph.build(root, sources, sinks, SETTINGS, time_stream(outputs, SETTINGS))


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def report() -> Report:
    return dry_run(streamed, JOB)


def test_dataflow_can_run_the_stream(report: Report) -> None:
    assert report.problems == ()
    assert "Dataflow can run this" in shown(report)


def test_the_stream_asks_for_nothing_but_what_dataflow_meets(report: Report) -> None:
    assert {urn.split(":")[-2] for urn in report.requirements} == {
        "stateful",
        "finalization",
        "splittable_dofn",
    }
    assert {urn.split(":")[-2] for urn in report.transforms} == {
        "pardo",
        "group_by_key",
        "flatten",
        "impulse",
        "window_into",
    }
    assert report.environments == (JOB.sdk_container_image,)
    assert {"BatchCoder", "_PositionsCoder"} <= set(report.coders)


def test_the_picture_marks_what_is_special_about_a_step(report: Report) -> None:
    marks = {step.name: step.all_marks() for step in report.steps}
    assert marks["Read"][-2:] == ("splittable, without end", "told when durable")
    assert marks["History"] == ("state deltas (bag)", "state mark (value)", "timer ts-due (event time)")
    assert marks["Validate"] == ()
    assert any(mark.startswith("windows of 3600 s, early panes, late panes") for mark in marks["Aggregate"])


def test_the_same_graph_gives_the_same_picture(report: Report) -> None:
    assert shown(dry_run(streamed, JOB)) == shown(report)


def test_the_notes_tell_what_exactly_once_does_not(report: Report) -> None:
    told, unordered, *_ = report.notes
    assert told.startswith("Read/")
    assert "drain the job" in told
    assert unordered.startswith("History/")
    assert "no order" in unordered


def test_at_least_once_is_refused_for_the_windows_and_for_nothing_else() -> None:
    problems = dry_run(streamed, replace(JOB, exactly_once=False)).problems
    assert [problem.where for problem in problems] == [
        f"Aggregate/Merge {name}" for name in ("5s", "1m", "1h")
    ]


def test_a_secret_in_the_graph_is_found_and_not_told() -> None:
    def told(root: beam.Pipeline) -> None:
        connection = connect_redis("redis://h", SETTINGS)
        _ = root | beam.Create([1]) | beam.Map(lambda _, client: client.public, connection)

    (problem,) = dry_run(told, JOB, ["open sesame", ""]).problems
    assert "holds a secret in clear" in problem.problem
    assert "open sesame" not in str(problem)


def test_a_small_picture_is_drawn_whole() -> None:
    def build(root: beam.Pipeline) -> None:
        numbers = (
            root
            | "Numbers" >> beam.Impulse()
            | "Key" >> beam.Map(lambda _: (1, 2)).with_output_types(tuple[int, int])
        )
        _ = (
            numbers
            | "Hourly" >> beam.WindowInto(window.FixedWindows(3600))
            | "Sum" >> beam.CombinePerKey(sum)
        )

    lines = [line.rstrip() for line in shown(dry_run(build, JOB)).splitlines()]
    assert lines == [
        "kpiflow in my-project, europe-west1: exactly once, 1 to 4 n2-standard-2",
        "├── Numbers",
        "├── Key",
        "├── Hourly  windows of 3600 s",
        "└── Sum  combined",
        "    ├── GroupByKey  grouped by key",
        "    └── Combine",
        "1 group_by_key, 1 impulse, 2 pardo, 1 window_into; pickled coders: FastPrimitivesCoder",
        "Dataflow can run this, as far as can be told from here",
    ]


ORDERED = beam.DoFn.StateParam(OrderedListStateSpec("ordered", VarIntCoder()))
BAG = beam.DoFn.StateParam(BagStateSpec("bag", VarIntCoder()))


class Sorted(beam.DoFn):
    def process(self, element: Any, ordered: Any = ORDERED) -> None: ...


class Kept(beam.DoFn):
    def process(self, element: Any, bag: Any = BAG) -> None: ...


def keyed(root: beam.Pipeline) -> beam.PCollection:
    return root | beam.Create([(1, 2)], reshuffle=False).with_output_types(tuple[int, int])


def scripted(root: beam.Pipeline) -> None:
    _ = root | "Script" >> Scripted().add_elements([1]).advance_watermark_to_infinity()


def sorted_state(root: beam.Pipeline) -> None:
    _ = keyed(root) | "Sort" >> beam.ParDo(Sorted())


def state_of_sessions(root: beam.Pipeline) -> None:
    _ = keyed(root) | beam.WindowInto(window.Sessions(60)) | "Keep" >> beam.ParDo(Kept())


def plain(root: beam.Pipeline) -> None:
    _ = keyed(root) | "Take" >> beam.Map(lambda pair: pair[0])


@pytest.mark.parametrize(
    ("build", "where", "problem"),
    [
        (scripted, "Script", "is a beam:transform:teststream:v1, which Dataflow is not known to run"),
        (sorted_state, "Sort", "keeps the state 'ordered' (ordered list), which Dataflow cannot"),
        (state_of_sessions, "Keep", "keeps state in windows that merge"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_dataflow_does_not_run_is_named_with_its_step(build: Build, where: str, problem: str) -> None:
    found = {each.where: each.problem for each in reversed(dry_run(build, JOB).problems)}
    assert found[where] == problem


def test_steps_of_what_is_installed_are_no_problem() -> None:
    assert dry_run(plain, JOB).problems == ()


def test_a_step_of_a_module_that_is_not_installed_is_found() -> None:
    found = [each for each in dry_run(state_of_sessions, JOB).problems if "module" in each.problem]
    assert [each.where for each in found] == ["Keep"]
    assert "test_dataflow of no installed package" in found[0].problem


class Cleft:
    """Something that has no coder but those of these tests."""


class Coder(beam.coders.Coder):
    """A coder of a module that no package has."""

    def encode(self, value: object) -> bytes:
        return b""


def local_coder() -> type[beam.coders.Coder]:
    class Local(beam.coders.BytesCoder):
        def to_runner_api_parameter(self, context: Any) -> Any:
            return beam.coders.Coder.to_runner_api_parameter(self, context)

    return Local


@pytest.mark.parametrize(
    ("coder", "name", "problem"),
    [
        (Coder, "Coder", "test_dataflow of no installed package"),
        (local_coder(), "Local", "is pickled with its code, so that no later build could read its state"),
    ],
)
def test_a_coder_that_workers_could_not_rely_on_is_found(
    coder: type[beam.coders.Coder], name: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = beam.coders.registry
    monkeypatch.setattr(registry, "_coders", dict(registry._coders))
    monkeypatch.setattr(registry, "custom_types", list(registry.custom_types))
    registry.register_coder(Cleft, coder)
    found = dry_run(
        lambda root: keyed(root) | beam.Map(lambda _: None).with_output_types(Cleft), JOB
    ).problems
    assert [each.where for each in found] == [name]
    assert problem in found[0].problem


@pytest.mark.parametrize("urn", [python_urns.EMBEDDED_PYTHON_LOOPBACK, common_urns.environments.EXTERNAL.urn])
def test_an_environment_that_is_no_image_is_found_with_its_steps(urn: str) -> None:
    translated = translate(plain, JOB)
    for environment in translated.components.environments.values():
        environment.urn = urn
    (problem,) = look_over(translated, "").problems
    assert problem.problem == f"is to run in {urn}"
    assert "Take" in problem.where


@pytest.mark.parametrize(
    ("urn", "place"),
    [("flink:transform:source:v1", "Take"), (common_urns.deprecated_primitives.READ.urn, "Take")],
)
def test_a_kind_of_step_that_only_another_runner_knows_is_found(urn: str, place: str) -> None:
    translated = translate(plain, JOB)
    for transform in translated.components.transforms.values():
        if transform.unique_name == place:
            transform.spec.urn = urn
    (problem,) = look_over(translated, "").problems
    assert (problem.where, problem.problem) == (place, f"is a {urn}, which Dataflow is not known to run")


def test_a_requirement_that_nobody_has_promised_is_found() -> None:
    translated = translate(plain, JOB)
    translated.requirements.append("beam:requirement:pardo:time_sorted_input:v1")
    (problem,) = look_over(translated, "").problems
    assert "requires beam:requirement:pardo:time_sorted_input:v1" in problem.problem


def test_windows_that_retract_are_found() -> None:
    translated = translate(
        lambda root: keyed(root) | "Hourly" >> beam.WindowInto(window.FixedWindows(3600)), JOB
    )
    for windows in translated.components.windowing_strategies.values():
        windows.accumulation_mode = protos.AccumulationMode.RETRACTING
    assert "Hourly" in {
        each.where for each in look_over(translated, "").problems if each.problem.startswith("retracts")
    }


def test_a_key_without_a_deterministic_coder_is_told_with_its_step() -> None:
    def build(root: beam.Pipeline) -> None:
        batches = (
            root | beam.Create([1]) | beam.Map(lambda _: ()).with_output_types(tuple[pa.RecordBatch, int])
        )
        _ = batches | "Group" >> beam.GroupByKey()

    with pytest.raises(NotSubmitted, match=r"cannot be translated for Dataflow.*Group"):
        translate(build, JOB)


def test_a_job_becomes_options_that_beam_reads() -> None:
    job = replace(
        JOB, job_name="kpis", service_account_email="k@p.iam.gserviceaccount.com", subnetwork="regions/r/subnetworks/s",
        use_public_ips=False, num_workers=2, update=True, labels=("team=kpi", "stage="), beam_options=("--dataflow_kms_key=k",),
    )  # fmt: skip
    options = PipelineOptions(job.arguments())
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert options.view_as(StandardOptions).streaming
    assert (cloud.project, cloud.region, cloud.temp_location) == (JOB.project, JOB.region, JOB.temp_location)
    assert (cloud.staging_location, cloud.service_account_email) == (None, "k@p.iam.gserviceaccount.com")
    assert (cloud.job_name, cloud.update, cloud.labels, cloud.dataflow_kms_key) == (
        "kpis",
        True,
        ["team=kpi", "stage="],
        "k",
    )
    assert (workers.num_workers, workers.max_num_workers, workers.machine_type) == (2, 4, "n2-standard-2")
    assert (workers.subnetwork, workers.network, workers.use_public_ips) == (
        "regions/r/subnetworks/s",
        None,
        False,
    )
    assert workers.sdk_container_image == JOB.sdk_container_image
    assert cloud.dataflow_service_options == ["min_num_workers=2"]
    assert options.view_as(DebugOptions).experiments == ["no_use_multiple_sdk_containers"]


def test_modes_and_processes_are_options_of_the_service() -> None:
    options = PipelineOptions(replace(JOB, exactly_once=False, one_process=False).arguments())
    assert options.view_as(GoogleCloudOptions).dataflow_service_options == [
        "min_num_workers=1",
        "streaming_mode_at_least_once",
    ]
    assert options.view_as(DebugOptions).experiments is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"project": "123456"}, "project is '123456'; write it like my-project"),
        ({"region": "europe"}, "region is 'europe'; write it like europe-west1"),
        ({"temp_location": "/tmp"}, "temp_location is '/tmp'; write it like gs://bucket/folder"),
        ({"staging_location": "gs://bucket"}, "staging_location is 'gs://bucket'"),
        ({"sdk_container_image": "a.dev/p/worker"}, "worker:1.0"),
        ({"job_name": "Kpis"}, "job_name is 'Kpis'"),
        ({"job_name": "k" * 64}, "at most 63"),
        ({"service_account_email": "me@example.com"}, "NAME@PROJECT.iam.gserviceaccount.com"),
        ({"subnetwork": "default"}, "regions/REGION/subnetworks/NAME"),
        ({"labels": ("team=kpi", "Team")}, "labels is 'Team'; write it like team=kpi"),
        ({"num_workers": 5}, "5 to 4 workers cannot be"),
        ({"num_workers": 0}, "0 to 4 workers cannot be"),
        ({"beam_options": ("--runner=DirectRunner", "--project=x")}, "--project, --runner are taken"),
    ],
)
def test_an_option_that_cannot_be_is_told_with_what_could(change: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TakenOptionError), match=re.escape(told)):
        replace(JOB, **change)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/data/tables", "is a file of this machine"),
        ("tables", "is a file of this machine"),
        ("file:///data", "is a file of this machine"),
        ("unix:///run/redis.sock", "is a file of this machine"),
        ("redis://localhost:6379", "is this machine"),
        ("rediss://127.0.0.53", "is this machine"),
        ("victoriametrics+http://[::1]:8428", "is this machine"),
        ("influxdb+http://0.0.0.0:8086/b?org=o", "is this machine"),
        ("redis://redis.localhost", "is this machine"),
    ],
)
def test_what_workers_cannot_reach_is_found(name: str, problem: str) -> None:
    assert [each.problem for each in unreachable([name])] == [problem]


def test_what_workers_can_reach_is_not_found() -> None:
    assert (
        unreachable(
            ["rediss://10.0.0.3:6379", "gs://bucket/kpis", "bigquery://p/d", "redis://localhost.example.com"]
        )
        == []
    )


def test_an_unreachable_place_is_told_without_its_password() -> None:
    assert "secret" not in str(unreachable(["redis://user:secret@localhost"])[0])


def test_a_graph_that_cannot_be_run_is_not_submitted() -> None:
    with pytest.raises(NotSubmitted, match="Dataflow cannot run this: Script is a"):
        submit(scripted, JOB)


def test_missing_libraries_are_told_with_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, APICLIENT, None)
    monkeypatch.delattr(dataflow_internal, "apiclient", raising=False)
    with pytest.raises(NotSubmitted, match=r"not installed: pip install 'kpiflow\[dataflow\]'"):
        submit(plain, JOB)


class AlreadyRunsError(Exception):
    """What the service's client raises for a job that runs already."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Google's client of Dataflow, with a service behind it that takes every job; and somebody who is signed in."""
    taken = SimpleNamespace(jobs=[])

    def create_job(job: Any) -> Any:
        taken.jobs.append(job)
        return SimpleNamespace(id="2026-01-02_03_04_05-6")

    client = SimpleNamespace(
        Job=lambda options, graph: SimpleNamespace(options=options, graph=graph, root_staging_location=""),
        DataflowApplicationClient=lambda options, root: SimpleNamespace(create_job=create_job),
        DataflowJobAlreadyExistsError=AlreadyRunsError,
    )
    monkeypatch.setitem(sys.modules, APICLIENT, client)
    monkeypatch.setattr(dataflow_internal, "apiclient", client, raising=False)
    monkeypatch.setattr(
        google.auth, "default", lambda scopes: (SimpleNamespace(refresh=lambda request: None), "my-project")
    )
    taken.client = client
    return taken


def test_a_job_is_submitted_as_it_was_looked_over(service: SimpleNamespace) -> None:
    assert submit(streamed, JOB) == (
        "2026-01-02_03_04_05-6",
        "https://console.cloud.google.com/dataflow/jobs/europe-west1/2026-01-02_03_04_05-6?project=my-project",
    )
    (job,) = service.jobs
    assert look_over(job.graph, str(JOB)) == dry_run(streamed, JOB)
    assert job.options.view_as(DebugOptions).lookup_experiment("enable_streaming_engine")
    assert not job.options.view_as(DebugOptions).lookup_experiment("enable_prime")
    assert not job.options.view_as(SetupOptions).save_main_session


def test_a_template_s_job_has_no_id_yet(service: SimpleNamespace) -> None:
    service.client.DataflowApplicationClient = lambda options, root: SimpleNamespace(
        create_job=lambda job: None
    )
    assert submit(plain, JOB) is None


@pytest.mark.parametrize(
    "error",
    [
        AlreadyRunsError("there is one"),
        PermissionDenied("no dataflow.jobs.create"),
        OSError("the bucket is not there"),
    ],
)
def test_a_job_that_is_refused_is_told_with_the_reason(error: Exception, service: SimpleNamespace) -> None:
    def refuse(job: Any) -> None:
        raise error

    service.client.DataflowApplicationClient = lambda options, root: SimpleNamespace(create_job=refuse)
    with pytest.raises(
        NotSubmitted, match=f"does not take the job 'kpiflow' in my-project, europe-west1: .*{error}"
    ):
        submit(plain, JOB)


@pytest.mark.parametrize("error", [DefaultCredentialsError("none found"), RefreshError("expired")])
def test_credentials_that_are_missing_or_expired_are_told_with_the_mend(
    error: Exception, service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default(scopes: list[str]) -> None:
        raise error

    monkeypatch.setattr(google.auth, "default", default)
    told = f"no valid credentials of Google Cloud ({error}): gcloud auth application-default login"
    with pytest.raises(NotSubmitted, match=re.escape(told)):
        submit(plain, JOB)
    assert service.jobs == []
