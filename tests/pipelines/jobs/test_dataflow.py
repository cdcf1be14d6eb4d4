"""`kpiflow stream --runner dataflow --dry-run`: what would keep a job from running on Dataflow."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.runners.dataflow import internal

from pipelines.cli import run

JOB = ["stream", "--runner", "dataflow", "--redis", "redis://10.0.0.3:6379", "--stream", "kpi"]
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


def test_what_workers_cannot_reach_is_a_problem(capsys: Capture) -> None:
    local = [word.replace("10.0.0.3", "localhost") for word in JOB]
    assert run([*local, "--dry-run", *OUTPUTS, "--output", "/tmp/tables", *OPTIONS]) == 1
    printed = capsys.readouterr()
    assert "redis://localhost is this machine" in printed.out
    assert "/tmp/tables is a file of this machine" in printed.out
    assert "2 problems" in printed.err


def test_a_secret_in_the_graph_is_a_problem_and_is_not_printed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPIFLOW_REDIS_PASSWORD", "open sesame")
    assert run([*JOB, "--dry-run", *OUTPUTS, *OPTIONS]) == 1
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
            "--archive, --fresh cannot be used with --runner dataflow",
        ),
        ([*JOB[:1], *JOB[3:], "--dry-run", *OUTPUTS], "--dry-run is for Dataflow"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(words: list[str], complaint: str, capsys: Capture) -> None:
    assert run(words) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
