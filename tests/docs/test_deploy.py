"""What is deployed for users is configured as what is tested here, and starts commands that exist."""

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipelines import cli
from pipelines.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy" / "flink"
OF_ONE_MACHINE = ("rest.", "jobmanager.", "taskmanager.", "io.", "metrics.", "web.")


def read(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def of_the_job(configuration: dict[str, Any]) -> dict[str, str]:
    """The options that say how a job runs, not where."""
    return {name: str(value).lower() for name, value in configuration.items() if not name.startswith(OF_ONE_MACHINE)}


EMBEDDED = of_the_job(read("flink-conf.yaml")[0])
(COMPOSE,) = read("docker-compose.yaml")
FLINK, STREAM = read("kubernetes.yaml")


@pytest.mark.parametrize(
    "configuration",
    [yaml.safe_load(COMPOSE["services"]["taskmanager"]["environment"]["FLINK_PROPERTIES"]), FLINK["spec"]["flinkConfiguration"]],
    ids=["compose", "kubernetes"],
)
def test_a_cluster_runs_the_job_as_the_embedded_flink_does(configuration: dict[str, Any]) -> None:
    assert len(EMBEDDED) > 8
    assert of_the_job(configuration) == EMBEDDED


@pytest.mark.parametrize(
    "words",
    [COMPOSE["services"]["stream"]["command"].split(), STREAM["spec"]["template"]["spec"]["containers"][0]["args"]],
    ids=["compose", "kubernetes"],
)
def test_the_stream_is_started_with_flags_that_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(cli.app()).commands[words[0]]  # type: ignore[attr-defined]
    known = {flag for parameter in command.params for flag in parameter.opts}
    known |= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("master", [COMPOSE["services"]["taskmanager"]["image"], FLINK["spec"]["image"]])
def test_the_cluster_is_of_the_line_that_the_job_server_is_of(master: str) -> None:
    line = master.removeprefix("flink:").partition("-")[0]
    assert f"<flink.line>{line}</flink.line>" in (DEPLOY / "pom.xml").read_text()
