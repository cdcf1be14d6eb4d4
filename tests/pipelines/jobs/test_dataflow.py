"""`kpiflow stream --runner dataflow --dry-run`: the job as Dataflow would get it, and what keeps it from there."""

import pytest

from pipelines.cli import run

JOB = ["stream", "--runner", "dataflow", "--redis", "redis://10.0.0.3:6379", "--stream", "kpi"]
OUTPUTS = ["--output", "gs://bucket/kpis", "--output", "victoriametrics+http://10.0.0.4:8428"]
OPTIONS = ["--", "--project=my-project", "--region=europe-west1", "--temp_location=gs://bucket/t"]
OPTIONS += ["--sdk_container_image=a.dev/p/w:1"]
# DEL"--project=my-project", "--region=europe-west1", "--temp_location=gs://bucket/t", "--sdk_container_image=a.dev/p/w:1"]
Capture = pytest.CaptureFixture[str]


def test_a_dry_run_draws_the_whole_job(capsys: Capture) -> None:
    assert run([*JOB, "--dry-run", "--live", *OUTPUTS, *OPTIONS]) == 0
    drawn = capsys.readouterr().out
    steps = (
        "ReadFromRedisStreams",
        "Validate",
        "History",
        "Write kpi_reports to 0",
        "Write kpi_fleet to 1",
        "Publish live",
    )
    assert [step for step in steps if step not in drawn] == []
    assert "Dataflow can run this" in drawn


def test_what_workers_cannot_reach_is_a_problem(capsys: Capture) -> None:
    local = [word.replace("10.0.0.3", "localhost") for word in JOB]
    assert run([*local, "--dry-run", *OUTPUTS, "--output", "/tmp/tables", *OPTIONS]) == 1
    told = capsys.readouterr()
    assert "redis://localhost is this machine" in told.out
    assert "/tmp/tables is a file of this machine" in told.out
    assert "2 problems" in told.err


def test_a_secret_in_the_graph_is_a_problem_and_is_not_told(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPIFLOW_REDIS_PASSWORD", "open sesame")
    assert run([*JOB, "--dry-run", *OUTPUTS, *OPTIONS]) == 1
    told = capsys.readouterr()
    assert "secret" in told.out
    assert "open sesame" not in told.out + told.err


def test_a_job_that_dataflow_cannot_run_is_not_begun(capsys: Capture) -> None:
    assert run([*JOB, "--output", "/tmp/tables", *OPTIONS]) == 2
    assert "Dataflow cannot run this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([*JOB, "--dry-run", *OUTPUTS], "the following arguments are required: --project"),
        (
            [*JOB, "--dry-run", *OUTPUTS, *OPTIONS, "--region=Europe"],
            "region is 'Europe'; write it like europe-west1",
        ),
        (
            [*JOB, "--dry-run", "--output", "victoriametrics+http://10.0.0.4:8428", *OPTIONS],
            "keeps no tables",
        ),
        (
            [*JOB, "--archive", "a", "--fresh", *OUTPUTS, *OPTIONS],
            "--archive, --fresh cannot be with --runner dataflow",
        ),
        ([*JOB[:1], *JOB[3:], "--dry-run", *OUTPUTS], "--dry-run is for Dataflow"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(words: list[str], complaint: str, capsys: Capture) -> None:
    assert run(words) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
