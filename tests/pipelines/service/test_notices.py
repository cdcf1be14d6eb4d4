"""A service that systemd has started reports when it listens, and that its loop runs."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import make_output


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of systemd, at `notify` in the folder of the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def start(folder: Path, **variables: str) -> "subprocess.Popen[str]":
    words = ["serve", str(folder), "--listen", "127.0.0.1:0", "--insecure-loopback"]
    program = f"from pipelines.cli import main; main({words!r})"
    return subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | variables, stderr=subprocess.PIPE, text=True
    )


def drain(notices: socket.socket) -> None:
    """Read what was sent before."""
    for _ in range(10):
        notices.recv(100)


def test_systemd_gets_ready_and_then_a_sign_of_life_again_and_again(
    tmp_path: Path, notices: socket.socket
) -> None:
    place = str(tmp_path / "notify")
    service = start(make_output(tmp_path / "out"), NOTIFY_SOCKET=place, WATCHDOG_USEC="400000")
    got = [notices.recv(100) for _ in range(3)]
    service.send_signal(signal.SIGSTOP)  # its loop does not run
    notices.settimeout(0.6)
    with pytest.raises(TimeoutError):
        drain(notices)
    service.send_signal(signal.SIGCONT)
    service.terminate()
    assert service.wait(PATIENCE) == 0
    assert got == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_a_watchdog_of_another_process_gets_nothing(tmp_path: Path, notices: socket.socket) -> None:
    variables = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    service = start(make_output(tmp_path / "out"), NOTIFY_SOCKET=str(tmp_path / "notify"), **variables)
    assert notices.recv(100) == b"READY=1"
    notices.settimeout(0.5)
    with pytest.raises(TimeoutError):
        notices.recv(100)
    service.terminate()
    assert service.wait(PATIENCE) == 0


def test_without_systemd_a_service_starts_as_before(tmp_path: Path) -> None:
    service = start(make_output(tmp_path / "out"))  # it is stopped while it makes its index
    assert service.stderr is not None
    assert "is served on" in service.stderr.readline()
    service.terminate()
    assert service.wait(PATIENCE) == 0


def test_a_command_ends_at_once_when_its_work_has_ended(tmp_path: Path) -> None:
    """The interpreter must not search for garbage what ends with the process anyway."""
    program = (
        "import atexit, time; atexit.register(lambda: print(time.process_time()));"
        "from pipelines.cli import main; main(['serve', '--help'])"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used - float(done.stdout.splitlines()[-1]) < 0.15
