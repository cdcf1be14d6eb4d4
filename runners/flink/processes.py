"""Child processes that cannot outlive this one, with their output in logs of bounded size.

A child is started through this module, run as a program: it asks the kernel to be killed when its parent
dies, and then becomes the command. So even a SIGKILL of the parent leaves nothing running. Children have a
session of their own: Ctrl-C in a terminal reaches only the parent, which ends them in order.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

Form = Callable[[str, bytes], bytes]
_PR_SET_PDEATHSIG = 1
_PARENT_DIED = 113
LOOPBACK = "127.0.0.1"
"""Where the processes of a job listen. `localhost` has a second address, whose same port can be another
program's: a client that tries that one first reaches a stranger."""
_FORKER = ThreadPoolExecutor(1, "forker")
"""Starts all children. To the kernel the parent is the *thread* that forked, so this thread must live on."""


class Log:
    """A file of lines, for many threads; at `limit` bytes it becomes `<name>.1` and a new one begins.

    `form` makes a line of the log of the name of a process and a line that it wrote; else the line follows
    the name in brackets.
    """

    def __init__(self, path: Path, limit: int = 8 << 20, form: Form | None = None) -> None:
        self.path, self._limit, self._form = path, limit, form
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab")

    def write(self, line: bytes, process: str = "") -> None:
        """Append a line of a process. On a full disk the line is dropped and the job goes on."""
        if self._form is not None:
            line = self._form(process or self.path.stem, line)
        elif process:
            line = f"[{process}] ".encode() + line
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
                if self._file.tell() >= self._limit:
                    self._file.close()
                    self.path.replace(self.path.with_name(self.path.name + ".1"))
                    self._file = self.path.open("ab")
            except OSError:
                return


class Child:
    """A running command. Its output goes to a log; `matches` has what a pattern found in it, by group."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Log, label: str, pattern: re.Pattern[bytes] | None
    ) -> None:
        self._process, self._log, self._label, self._pattern = process, log, label, pattern
        self.matches: dict[str, str] = {}
        self.last_line = ""
        self._reader = threading.Thread(
            target=self._read, name=f"output of {label or process.pid}", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; a negative signal number if a signal ended it."""
        return self._process.poll()

    def stop(self, patience: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL if it is still there after `patience` seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._reader.join(1.0)

    def write_log(self, line: bytes) -> None:
        """Add a line to its log."""
        self._log.write(line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._pattern is not None and (found := self._pattern.search(line)):
                self.matches |= {
                    name: text.decode() for name, text in found.groupdict().items() if text is not None
                }
            if text := line.decode(errors="replace").strip():
                self.last_line = text
            self._log.write(line, self._label)


def start(
    command: Sequence[str],
    log: Log,
    *,
    label: str = "",
    pattern: re.Pattern[bytes] | None = None,
    keep_open: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a command that dies with this process.

    Args:
        log: gets what it writes to stdout and stderr, as lines of the process `label`.
        pattern: searched in each line; its named groups are kept in `Child.matches`.
        keep_open: file descriptors that it inherits, so that locks on them last as long as it lives.
        environment: variables beside those of this process.
    """
    wrapped = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(os.getpid()), *command]
    process = _FORKER.submit(
        subprocess.Popen,
        wrapped,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(keep_open),
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    ).result()
    return Child(process, log, label, pattern)


def find_free_port() -> int:
    """A free port of the loopback, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def become(parent: int, command: Sequence[str]) -> None:
    """Turn this process into a command that is killed when its parent dies (on Linux only)."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was asked for
        os._exit(_PARENT_DIED)
    os.execvp(command[0], tuple(command))


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
