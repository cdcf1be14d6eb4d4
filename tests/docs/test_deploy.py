"""What is deployed for users is configured as what is tested here, and starts commands that exist."""

import subprocess
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
    return {
        name: str(value).lower()
        for name, value in configuration.items()
        if not name.startswith(OF_ONE_MACHINE)
    }


EMBEDDED = of_the_job(read("flink-conf.yaml")[0])
(COMPOSE,) = read("docker-compose.yaml")
FLINK, STREAM = read("kubernetes.yaml")


@pytest.mark.parametrize(
    "configuration",
    [
        yaml.safe_load(COMPOSE["services"]["taskmanager"]["environment"]["FLINK_PROPERTIES"]),
        FLINK["spec"]["flinkConfiguration"],
    ],
    ids=["compose", "kubernetes"],
)
def test_a_cluster_runs_the_job_as_the_embedded_flink_does(configuration: dict[str, Any]) -> None:
    assert len(EMBEDDED) > 8
    assert of_the_job(configuration) == EMBEDDED


@pytest.mark.parametrize(
    "words",
    [
        COMPOSE["services"]["stream"]["command"].split(),
        STREAM["spec"]["template"]["spec"]["containers"][0]["args"],
    ],
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


def test_compose_publishes_ports_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_install_names_the_packages_that_it_cannot_install(tmp_path: Path) -> None:
    (tmp_path / "id").symlink_to("/usr/bin/id")  # a machine that has nothing else on its PATH

    def installed(*programs: str) -> tuple[int, str]:
        command = ["/bin/sh", DEPLOY.parent / "install.sh", *programs]
        done = subprocess.run(
            command, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False
        )
        return done.returncode, done.stderr.strip()

    assert installed("cobol") == (2, "deploy/install.sh: no package is known for cobol")
    assert installed("redis-server", "mvn") == (
        2, "missing on this machine: redis-server maven; as root: apt-get install redis-server maven"
    )  # fmt: skip
