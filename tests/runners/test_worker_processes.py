"""Worker processes: calls and their answers, and what happens when one ends in the middle."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from runners import worker_processes
from runners.worker_processes import State, WorkerDied, WorkerProcess, fork_workers
from tests.integration.processes import wait_for_ends
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


class OddError(Exception):
    """An error that pickle cannot make again: it has more arguments than `args`."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number


@pytest.fixture(params=[False, True], ids=["forked", "beside library threads"])
def worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    monkeypatch.setattr(worker_processes, "has_library_threads", lambda: request.param)
    with fork_workers(2) as workers:
        yield workers[0]


def count(state: State, more: int) -> tuple[int, int]:
    state["sum"] = state.get("sum", 0) + more
    return os.getpid(), state["sum"]


def fail(_: State, kind: str) -> None:
    try:
        [][0]
    except IndexError as error:
        if kind == "odd":
            raise OddError("odd", 7) from error
        raise (MemoryError if kind == "memory" else ZeroDivisionError)(kind) from error


def wait(_: State, seconds: float) -> str:
    time.sleep(seconds)
    return "waited"


def end(_: State, code: int) -> None:
    os._exit(code)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_is_another_process_and_keeps_its_state(worker: WorkerProcess) -> None:
    assert worker.call(count, 2) == (worker.process, 2)
    assert worker.call(count, 3) == (worker.process, 5)
    assert worker.process != os.getpid()


@pytest.mark.parametrize(("asked", "forked"), [(0, 0), (1, 0), (2, 2), (5, 5)])
def test_one_process_needs_no_worker(asked: int, forked: int) -> None:
    with fork_workers(asked) as workers:
        assert len({each.call(count, 1)[0] for each in workers}) == forked


def test_workers_are_gone_at_the_end() -> None:
    with fork_workers(3) as workers:
        processes = [each.process for each in workers]
    assert not any(map(is_there, processes))


@pytest.mark.parametrize(("kind", "error"), [("zero", ZeroDivisionError), ("memory", MemoryError)])
def test_an_error_comes_with_its_type_its_cause_and_its_trace(
    worker: WorkerProcess, kind: str, error: type[BaseException]
) -> None:
    with pytest.raises(error, match=kind) as raised:
        worker.call(fail, kind)
    assert isinstance(raised.value.__cause__, IndexError)
    (note,) = raised.value.__notes__
    assert "in a worker process:" in note
    assert ", in fail" in note
    assert worker.call(count, 1) == (worker.process, 1), "it works on"


def test_an_error_that_cannot_be_pickled_keeps_its_text_and_its_cause(worker: WorkerProcess) -> None:
    with pytest.raises(RuntimeError, match=r"OddError: odd") as raised:
        worker.call(fail, "odd")
    assert isinstance(raised.value.__cause__, IndexError)


def test_a_worker_that_ends_by_itself_is_named_with_its_exit_code(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerDied, match=f"worker process {worker.process} ended with exit code 9"):
        worker.call(end, 9)
    with pytest.raises(WorkerDied, match="exit code 9"):
        worker.call(count, 1)
    assert not worker.is_idle


def test_a_worker_that_cannot_even_send_its_error_ends_and_does_not_run_its_parents_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_out_of_memory(_: BaseException) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(worker_processes, "has_library_threads", lambda: False)  # a fork has the patch
    monkeypatch.setattr(worker_processes, "_save_errors", run_out_of_memory)
    with fork_workers(2) as workers, pytest.raises(WorkerDied, match="exit code 1"):
        workers[0].call(fail, "zero")


def test_a_worker_that_is_killed_in_a_call_is_named_with_the_signal(worker: WorkerProcess) -> None:
    threading.Timer(0.2, os.kill, (worker.process, signal.SIGKILL)).start()
    with pytest.raises(WorkerDied, match="was killed by signal 9"):
        worker.call(wait, 60)


def test_a_worker_can_be_killed_while_another_thread_calls_it(worker: WorkerProcess) -> None:
    ended: list[BaseException] = []

    def call() -> None:
        try:
            worker.call(wait, 60)
        except WorkerDied as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while worker.is_idle:
        time.sleep(0.01)
    worker.kill()
    thread.join(PATIENCE)
    assert [str(error) for error in ended] == [f"worker process {worker.process} was killed by signal 9"]
    assert not is_there(worker.process)


def test_calls_of_two_threads_come_one_after_the_other(worker: WorkerProcess) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(worker.call(count, 1)[1])) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(answers) == list(range(1, 21))


def test_an_interrupt_of_the_terminal_leaves_the_decision_to_the_launching_process(
    worker: WorkerProcess,
) -> None:
    worker.call(count, 1)  # it has started
    threading.Timer(0.1, os.kill, (worker.process, signal.SIGINT)).start()
    assert worker.call(wait, 0.4) == "waited"


def run_program(text: str, **options: object) -> subprocess.Popen[str]:
    """A program of its own that has `fork_workers` and the functions of this module."""
    names = "count, end, fail, wait"
    begin = (
        "import os, signal, sys, time\n"
        f"from tests.runners.test_worker_processes import {names}\n"
        "from runners.worker_processes import WorkerDied, fork_workers\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", begin + text],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_a_parent_that_ignores_the_end_of_its_children_still_sees_a_worker_die() -> None:
    """Ignoring SIGCHLD is inherited, and then the system waits for children itself."""
    program = run_program("""
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with fork_workers(2) as workers:
    print(workers[0].call(count, 1)[1])
    try:
        workers[0].call(end, 3)
    except WorkerDied as error:
        print(error)
print("done")
""")
    out, _ = program.communicate(timeout=PATIENCE)
    first, died, last = out.splitlines()
    assert (first, died.startswith("worker process"), died.endswith("ended"), last) == (
        *("1", True, True),
        "done",
    )
    assert program.returncode == 0


def test_workers_die_with_the_process_that_forked_them() -> None:
    program = run_program("""
import threading
with fork_workers(3) as workers:
    print(*(each.process for each in workers), flush=True)
    workers[0].call(wait, 600)
""")
    assert program.stdout is not None
    processes = [int(word) for word in program.stdout.readline().split()]
    assert len(processes) == 3
    program.kill()
    program.wait()
    wait_for_ends(processes)
