"""The page of the service holds: its programs run, its routes, options and numbers are those of the code."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines import cli
from pipelines.service import acceptor, http_connection, live, server, stream
from pipelines.service.query_pool import WAITING
from pipelines.service.routes import ROUTES
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import make_output
from tests.service import RunningService, make_service, run_service

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with run_service(make_service(make_output(tmp_path_factory.mktemp("page") / "out"))) as running:
        yield running


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def run(words: list[str], service: RunningService, folder: Path) -> str:
    environment = {"KPIFLOW": service.url, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        words, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("line", "".join(fenced("sh")).splitlines())
def test_a_line_of_curl_gets_its_answer(line: str, service: RunningService, tmp_path: Path) -> None:
    printed = run(["sh", "-c", line.replace("curl -s", "curl -sS --fail")], service, tmp_path)
    assert printed or (tmp_path / "summary.parquet").stat().st_size > 0


@pytest.mark.parametrize("program", fenced("python"))
def test_a_python_program_runs(program: str, service: RunningService, tmp_path: Path) -> None:
    run([sys.executable, "-c", program], service, tmp_path)


def test_every_route_is_listed() -> None:
    listed = re.findall(r"^\| `((?:GET|POST) /[^`]*)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(f"{route.method} {route.path}" for route in ROUTES)


def test_its_numbers_are_those_of_the_code() -> None:
    options = find_command("serve").params
    defaults = {option.opts[0]: option.default for option in options if option.opts[0] in PAGE}
    for name, text in re.findall(r"^\| `(--[\w-]+)` \| ([\d,]+) \|", PAGE, flags=re.MULTILINE):
        assert defaults[name] == int(text.replace(",", ""))
    said = " ".join(PAGE.split())
    assert f"{WAITING} times as many wait" in said
    assert f"the newest {live.MOST_ENTRIES:,} entries, up to {live.MOST_BYTES >> 20} MiB" in said
    assert f"takes nothing for {stream.SLOW_SECONDS:g} s" in said
    assert f"not done after {acceptor.HANDSHAKE_SECONDS:g} s" in said
    assert f"no whole request for {server.IDLE_SECONDS:g} s" in said
    assert f"a body has {server.BODY_SECONDS:g} s" in said
    assert f"nothing of an answer for {http_connection.TAKE_SECONDS:g} s" in said
    assert f"At most {stream.MOST_SOCKETS} sockets" in said


def find_command(name: str) -> Any:
    return typer.main.get_command(cli.app()).commands[name]  # type: ignore[attr-defined]
