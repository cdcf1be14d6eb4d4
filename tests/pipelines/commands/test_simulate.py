"""`kpiflow simulate`: what it takes, what it prints, how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from pipelines.cli import run
from tests.certificates import make_certificates
from tests.patience import PATIENCE
from tests.servers import free_port


@contextmanager
def simulate(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program with some options, and its URL."""
    command = [sys.executable, "-m", "pipelines.cli", "simulate", "--listen", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        try:
            yield program, program.stderr.readline().split()[-1]
        finally:
            program.kill()


def test_it_serves_until_it_is_stopped_and_says_what_it_did(tmp_path: Path) -> None:
    with simulate("--history", "120", "--rate", "0", "--record", str(tmp_path / "record")) as (program, url):
        with urlopen(f"{url}/kpi/export?page=2") as answer:
            assert len(json.load(answer)["kpi_reports"]) == 20
        program.send_signal(signal.SIGUSR1)
        program.send_signal(signal.SIGTERM)
        said, _ = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0
    assert said.split("; ") == [
        "offered 120 reports",
        "answers of the export: 1 200",
        "sockets: 0 opened, 0 refused, 0 dropped, 0 of them slow",
        "faults: none\n",
    ]
    assert len((tmp_path / "record").read_bytes().splitlines()) == 120


def test_it_offers_the_reports_of_an_archive_and_no_other_messages(tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    assert run(["generate", "--output", archive, "--reports", "300", "--dirty", "0.1", "--records"]) == 0
    with simulate("--input", f"{archive}/**", "--history", "9999") as (program, said):
        assert said == "out"  # the payloads that no page can hold are left out
        assert program.stderr is not None
        assert "Layer 4 listens" in program.stderr.readline()
        program.terminate()
        said, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, errors
    offered = int(said.split()[1])
    assert 250 < offered <= 300


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--listen", "nowhere"], "no address to listen on"),
        (["--listen", "0.0.0.0:0"], "needs TLS"),
        (["--listen", "127.0.0.1:0", "--tls12"], "needs a certificate and a key"),
        (["--listen", "127.0.0.1:0", "--client-ca", "x"], "needs a certificate and a key"),
        (["--listen", "127.0.0.1:0", "--faults", "slow=1"], "no fault is called slow"),
        (["--listen", "127.0.0.1:0", "--drop-every", "23"], "is not a time span"),
        (["--listen", "127.0.0.1:0", "--rate", "-1"], "--rate -1"),
        (["--listen", "127.0.0.1:0", "--keep", "-1"], "--keep -1"),
        (["--listen", "127.0.0.1:0", "--ties", "2"], "is not a share"),
        (["--listen", "127.0.0.1:0", "--start", "soon"], "is not a date-time"),
        (["--listen", "127.0.0.1:0", "--record", "/nowhere/record"], "cannot be written"),
    ],
)
def test_wrong_use_names_the_problem(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *options]) in (2, 3)
    assert problem in " ".join(capsys.readouterr().err.split())


def test_files_of_tls_that_do_not_belong_together_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pems = make_certificates(tmp_path)
    files = ["--tls-certificate", str(pems.server), "--tls-key", str(pems.client_key)]
    assert run(["simulate", "--listen", "127.0.0.1:0", *files]) == 2
    assert "name PEM files that belong together" in capsys.readouterr().err
