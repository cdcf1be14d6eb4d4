"""Child processes and their logs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from runners.flink.processes import Log, start
from tests.integration.processes import wait_for_ends


def test_a_child_dies_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from runners.flink.processes import Child, Log, start\n"
        f"print(start(['sleep', '600'], Log(Path({str(tmp_path / 'log')!r}))).pid, flush=True)\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    wait_for_ends([child])


def test_a_child_is_heard_logged_and_ended(tmp_path: Path) -> None:
    log = Log(tmp_path / "logs" / "child.log")
    command = ["sh", "-c", "echo port 17; echo done >&2; sleep 600"]
    child = start(command, log, label="a", pattern=re.compile(rb"port (?P<port>\d+)"))
    while child.last_line != "done":
        time.sleep(0.01)
    assert (child.matches, child.exit_code) == ({"port": "17"}, None)
    child.stop()
    assert child.exit_code == -signal.SIGTERM
    assert (tmp_path / "logs" / "child.log").read_text() == "[a] port 17\n[a] done\n"


def test_a_log_keeps_its_newest_lines_in_bounded_space(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", limit=100)
    for number in range(1000):
        log.write(b"line %04d\n" % number)
    kept = (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert kept == "".join(f"line {number:04d}\n" for number in range(1000))[-len(kept) :]
    assert 100 <= len(kept) <= 200
