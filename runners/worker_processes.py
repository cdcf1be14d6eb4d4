"""Worker processes of this machine, which run bundles of a graph. They end with this process.

A worker is a forked copy of this process, so it has every module already and starts within milliseconds. But
a fork does not copy threads, and so breaks libraries that work in threads of their own, once they have begun.
So fork workers first, before this process opens connections. Where such a library has begun, a worker is a
new process, which takes a second or two to import what it needs.
"""

import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")
State = dict[str, Any]
"""What a worker keeps from one call to the next. `send_news` in it sends news of the call to the caller."""

_NEWS, _RESULT, _ERRORS = "news", "result", "errors"
"""What a message of a worker contains."""
_PR_SET_PDEATHSIG = 1


class WorkerDied(RuntimeError):  # noqa: N818 (an end, not only an error)
    """A worker process ended in the middle of a run, for example because memory ran out."""


class WorkerProcess:
    """A worker, and this process's end of the pipe to it. One call at a time.

    Attributes:
        process: the number of the process, also after its end.
    """

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        self._calling, self._ending = threading.Lock(), threading.Lock()
        self._end = ""
        parent = os.getpid()
        self.process = _spawn(theirs) if has_library_threads() else os.fork()
        if not self.process:
            self._pipe.close()
            _serve(theirs, parent)
        theirs.close()

    @property
    def is_idle(self) -> bool:
        """Whether the worker lives and answers no call: after an error or an interrupt it may."""
        return not self._end and not self._calling.locked()

    def call(
        self, function: Callable[..., Result], *arguments: Any, on_news: Callable[[Any], object] = id
    ) -> Result:
        """The result of `function(state, *arguments)` in the worker, or the exception that it raises.

        The function, the arguments and the result are pickled. `on_news` is called with each object that the
        function gives to `state["send_news"]`.

        Raises:
            WorkerDied: the worker ended before it answered.
        """
        with self._calling:
            try:
                self._pipe.send((function, arguments))
                while (message := self._pipe.recv())[0] == _NEWS:
                    on_news(message[1])
            except (EOFError, OSError) as error:
                raise WorkerDied(f"worker process {self.process} {self._wait_for_end()}") from error
        kind, answer = message
        if kind == _ERRORS:
            raise _restore_errors(answer)
        result: Result = answer
        return result

    def kill(self) -> None:
        """End the worker at once, even in the middle of a call, which then raises WorkerDied."""
        if not self._end:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            self._wait_for_end()
        with self._calling:  # a call of another thread has the pipe until it sees the end
            self._pipe.close()

    def _wait_for_end(self) -> str:
        """How the worker ended."""
        with self._ending:
            if not self._end:
                try:
                    _, status = os.waitpid(self.process, 0)
                except ChildProcessError:  # SIGCHLD is ignored: the system waits itself, and does not say
                    self._end = "ended"
                else:
                    code = os.waitstatus_to_exitcode(status)
                    self._end = (
                        f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                    )
            return self._end


@contextmanager
def fork_workers(count: int) -> Iterator[Sequence[WorkerProcess]]:
    """Yields `count` workers, which are killed at the end; none if `count` is 1: this process is enough."""
    with ExitStack() as stack:
        workers = []
        for _ in range(count if count > 1 else 0):
            workers.append(WorkerProcess())
            stack.callback(workers[-1].kill)
        yield workers


def has_library_threads() -> bool:
    """Whether a library runs threads in this process that have names of their own, like those of obstore.

    Threads of numpy and Arrow have the name of the process; they begin again after a fork by themselves.
    """
    try:
        names = {path.read_text() for path in Path("/proc/self/task").glob("*/comm")}
        return not names <= {Path("/proc/self/comm").read_text(), "jemalloc_bg_thd\n"}
    except OSError:  # a thread has just ended, or there is no /proc
        return os.path.exists("/proc/self/task")


def _spawn(pipe: Connection) -> int:
    """Start a new process that answers the calls of a pipe; returns its number."""
    os.set_inheritable(pipe.fileno(), True)
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    command = [sys.executable, "-m", __name__, str(pipe.fileno()), str(os.getpid())]
    return os.posix_spawn(sys.executable, command, os.environ | {"PYTHONPATH": path})


def _serve(pipe: Connection, parent: int) -> NoReturn:
    """Answer calls until the other end is closed. Whatever happens, the process then ends: a forked one would
    otherwise go on with the code of its parent."""
    try:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches all processes of a terminal: one decides
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _answer_calls(pipe, parent)
        os._exit(0)
    finally:  # memory is too short even for an error's message, for example
        os._exit(1)


def _answer_calls(pipe: Connection, parent: int) -> None:
    sending = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with sending:
            pipe.send((kind, content))

    state: State = {"send_news": partial(send, _NEWS)}
    while os.getppid() == parent:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            send(_RESULT, function(state, *arguments))
        except BaseException as error:
            send(_ERRORS, _save_errors(error))


def _save_errors(error: BaseException | None) -> list[tuple[bytes | None, str]]:
    """The error, what caused it, what caused that, ...: each pickled if it can be, with its trace."""
    saved: list[tuple[bytes | None, str]] = []
    known: set[int] = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        trace = "".join(traceback.format_exception(error, chain=False))
        try:
            pickle.loads(whole := pickle.dumps(error))
        except Exception:
            whole = None
        saved.append((whole, trace))
        error = error.__cause__ or error.__context__
    return saved


def _restore_errors(saved: list[tuple[bytes | None, str]]) -> BaseException:
    """The errors of `_save_errors`, each the cause of the one before; the trace in the worker is a note."""
    cause: BaseException | None = None
    for whole, trace in reversed(saved):
        error: BaseException = RuntimeError(trace.strip().splitlines()[-1])
        if whole is not None:
            error = pickle.loads(whole)
        error.add_note(f"in a worker process:\n{trace}")
        error.__cause__ = cause
        cause = error
    assert cause is not None
    return cause


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
