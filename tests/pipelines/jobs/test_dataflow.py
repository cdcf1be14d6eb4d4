"""`--runner dataflow` of a stream and a backfill: what would keep a job from running, what is submitted."""

import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from apache_beam.runners.dataflow import internal

from pipelines.cli import run
from pipelines.inputs import find_archives
from pipelines.jobs.backfill import wire_batch
from pipelines.outputs import Outputs, folder_outputs
from pipelines.settings import Settings
from tests.builders import NOON, report
from tests.integration.archives import envelope, write
from transforms.core.errors import Refused
from transforms.core.expiry import NOTHING
from transforms.core.time_range import Span

JOB = ["stream", "--runner", "dataflow", "--redis", "redis://10.0.0.3:6379", "--stream", "kpi"]
BACKFILL = ["backfill", "--runner", "dataflow", "--input", "gs://bucket/archive/*.ndjson", "s3://other/2025"]
OUTPUTS = ["--output", "gs://bucket/kpis", "--output", "victoriametrics+http://10.0.0.4:8428"]
OPTIONS = ["--", "--project=my-project", "--region=europe-west1", "--temp_location=gs://bucket/t"]
OPTIONS += ["--sdk_container_image=a.dev/p/w:1"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Beam's client of Dataflow where apache-beam[gcp] is not installed."""
    if find_spec("google.cloud.dataflow_v1beta3") is not None:
        return
    image = OPTIONS[-1].partition("=")[2]
    known = SimpleNamespace(Job=lambda *_: None, get_container_image_from_options=lambda _: image)
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", known)
    monkeypatch.setattr(internal, "apiclient", known, raising=False)


def test_a_dry_run_translates_the_whole_job_and_can_draw_it(capsys: Capture, tmp_path: Path) -> None:
    picture = tmp_path / "graph.dot"
    assert run([*JOB, "--dry-run", "--live", *OUTPUTS, *OPTIONS, f"--render_output={picture}"]) == 0
    steps = ("Read", "Validate", "History", "Write kpi_reports to 0", "Write kpi_fleet to 1", "Publish live")
    drawn = picture.read_text()
    assert [step for step in steps if step not in drawn] == []
    assert "nothing was started" in capsys.readouterr().out


def test_a_dry_run_of_a_backfill_connects_to_nothing(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", Mock(side_effect=AssertionError("it connected")))
    monkeypatch.setattr("pipelines.jobs.dataflow_backfill.find_archives", Mock(side_effect=AssertionError))
    picture = tmp_path / "graph.dot"
    words = [*BACKFILL, "--from", "2025-10-20T00:00:00Z", "--dry-run", *OUTPUTS, *OPTIONS]
    assert run([*words, f"--render_output={picture}"]) == 0
    steps = ("Read", "Recall", "History", "Write kpi_reports to 0", "Write kpi_fleet to 1")
    drawn = picture.read_text()
    assert [step for step in steps if step not in drawn] == []
    assert "nothing was started" in capsys.readouterr().out


def test_all_paths_of_a_backfill_on_this_machine_are_problems_at_once(
    capsys: Capture, tmp_path: Path
) -> None:
    local = ["--input", str(tmp_path), "archive/*.ndjson", "--output", str(tmp_path / "tables")]
    assert run([*BACKFILL, *local, "--dry-run", *OUTPUTS, *OPTIONS]) == 1
    printed = capsys.readouterr()
    shown = " ".join(printed.out.split())
    for path in (str(tmp_path), "archive/*.ndjson", str(tmp_path / "tables")):
        assert f"{path} is a file of this machine; use a bucket or a server" in shown
    assert "3 problems" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_backfill_is_submitted_with_the_files_and_blocks_of_its_archives(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of this machine are in the place of a bucket's."""
    times = [NOON + timedelta(hours=hour) for hour in range(24)]
    write(tmp_path / "a.ndjson", [envelope(report(i, at), i, at) for i, at in enumerate(times)])
    found, opened = find_archives([str(tmp_path)]), []
    outputs = folder_outputs(tmp_path / "tables", Settings())

    def open_outputs(texts: object, settings: Settings, file_minutes: int) -> tuple[Outputs, Settings]:
        opened.append((texts, settings, file_minutes))
        return outputs, settings

    monkeypatch.setattr("pipelines.jobs.dataflow_backfill.find_archives", lambda patterns: found)
    monkeypatch.setattr("pipelines.jobs.backfill.open_outputs", open_outputs)
    wired = Mock(wraps=wire_batch)
    monkeypatch.setattr("pipelines.jobs.dataflow_backfill.wire_batch", wired)
    submitted = Mock(return_value="https://console")
    monkeypatch.setattr("runners.dataflow.submit", submitted)
    assert run([*BACKFILL, *OUTPUTS, *OPTIONS, "--max_num_workers=2"]) == 0
    assert "the job ends with its input: https://console" in " ".join(capsys.readouterr().out.split())
    ((texts, settings, _),) = opened
    assert texts == ("gs://bucket/kpis", "victoriametrics+http://10.0.0.4:8428")
    assert (settings.workers, settings.block_hours) == (2, 3)  # four blocks for each worker
    files, _, _, span, recall, expiry = wired.call_args.args
    assert (files, span, recall, expiry) == (found, Span(), False, NOTHING)
    graph, flags = submitted.call_args.args
    assert "--job_name=kpiflow-backfill" in flags
    assert not any(step.unique_name == "Recall" for step in graph.components.transforms.values())


def test_a_bucket_that_cannot_be_read_is_wrong_use(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Mock(side_effect=Refused("gs://bucket: there is no such bucket; create it"))
    monkeypatch.setattr("pipelines.jobs.dataflow_backfill.find_archives", refusal)
    assert run([*BACKFILL, *OUTPUTS, *OPTIONS]) == 2
    assert "there is no such bucket" in capsys.readouterr().err


def test_what_workers_cannot_reach_is_a_problem(capsys: Capture) -> None:
    local = [word.replace("10.0.0.3", "localhost") for word in JOB]
    assert run([*local, "--dry-run", *OUTPUTS, "--output", "/tmp/tables", *OPTIONS]) == 1
    printed = capsys.readouterr()
    assert "redis://localhost is this machine" in printed.out
    assert "/tmp/tables is a file of this machine" in printed.out
    assert "2 problems" in printed.err


@pytest.mark.parametrize(
    ("job", "secret"),
    [(JOB, "REDIS_PASSWORD"), (BACKFILL, "VICTORIAMETRICS_TOKEN")],
    ids=["stream", "backfill"],
)
def test_a_secret_in_the_graph_is_a_problem_and_is_not_printed(
    job: list[str], secret: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"KPIFLOW_{secret}", "open sesame")
    assert run([*job, "--dry-run", *OUTPUTS, *OPTIONS]) == 1
    printed = capsys.readouterr()
    assert "secret" in printed.out
    assert "open sesame" not in printed.out + printed.err


def test_a_job_that_dataflow_cannot_run_is_not_started(capsys: Capture) -> None:
    assert run([*JOB, "--output", "/tmp/tables", *OPTIONS]) == 2
    assert "Dataflow cannot run this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([*JOB, "--dry-run", *OUTPUTS], "--project is missing"),
        (
            [*JOB, "--dry-run", *OUTPUTS, *OPTIONS, "--sdk_container_image=worker"],
            "--sdk_container_image is 'worker'; for example",
        ),
        (
            [*JOB, "--dry-run", "--output", "victoriametrics+http://10.0.0.4:8428", *OPTIONS],
            "keeps no tables",
        ),
        (
            [*JOB, "--archive", "a", "--fresh", *OUTPUTS, *OPTIONS],
            "--runner dataflow does not take --archive (the job has no folders of this machine), --fresh (",
        ),
        ([*JOB[:1], *JOB[3:], "--dry-run", *OUTPUTS], "--runner flink does not take --dry-run"),
        ([*JOB, *OUTPUTS, "--runner", "direct"], "--runner direct runs only what ends"),
        ([*BACKFILL, "--dry-run", *OUTPUTS], "--project is missing"),
        ([*BACKFILL, *OUTPUTS, *OPTIONS, "--streaming"], "--streaming are decided by kpiflow"),
        ([*BACKFILL, "redis://h", "--dry-run", *OUTPUTS, *OPTIONS], "--input redis://h is no archive"),
        ([*BACKFILL, "s3://k:s@b", "--dry-run", *OUTPUTS, *OPTIONS], "a URL is no place for credentials"),
        ([*BACKFILL, "--replace", *OUTPUTS, *OPTIONS], "--replace (it rewrites a folder of this machine)"),
        ([*BACKFILL, "--timings", *OUTPUTS, *OPTIONS], "--timings (the job is not waited for"),
        ([*BACKFILL[:1], *BACKFILL[3:], "--dry-run", *OUTPUTS], "--runner direct does not take --dry-run"),
        ([*BACKFILL, "--input", "archive", *OUTPUTS, *OPTIONS], "archive is a file of this machine"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(words: list[str], complaint: str, capsys: Capture) -> None:
    assert run(words) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
