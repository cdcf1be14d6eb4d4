"""The programs `counting` and `summing` of this folder as processes that tests can interrupt and kill."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners.flink.jars import FlinkMissing, ensure_jars, find_java
from tests.integration.streaming import children
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]

try:
    find_java()
    ensure_jars()
    WHY_NOT = ""
    """Why Flink cannot run here."""
except FlinkMissing as missing:
    WHY_NOT = str(missing)


class Program:
    """The program `tests.integration.<name>`, running on a folder; what it reports is kept."""

    def __init__(self, name: str, folder: Path, *words: object, hold: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.reports: list[dict[str, Any]] = []
        command = [sys.executable, "-m", f"tests.integration.{name}", str(folder), *map(str, words)]
        command += ["--hold", *map(str, hold)] if hold else []
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=hold
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.reports.append(json.loads(line))

    @property
    def progress(self) -> dict[str, Any]:
        """What it said last of how it does."""
        return next((each["progress"] for each in reversed(self.reports) if "progress" in each), {})

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something holds while the program runs."""
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, f"it ended: {self.reports[-2:]}"
            assert time.monotonic() < end, f"it never got there: {self.reports[-1:]}"
            time.sleep(0.05)

    def ended(self) -> dict[str, Any]:
        """How it ended."""
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return self.reports[-1]

    def interrupted(self) -> None:
        """Interrupt it as Ctrl-C does, and wait for its end."""
        self.process.send_signal(signal.SIGINT)
        assert self.ended()["end"] == "KeyboardInterrupt"

    def children(self) -> dict[int, str]:
        """The processes it has started, and those of theirs, with their command lines."""
        return children(self.process.pid)

    def java(self) -> int:
        """Its Java process."""
        return next(pid for pid, words in self.children().items() if "FlinkJobServerDriver" in words)
