"""A backfill on worker processes that ends in the middle: nothing of it goes on, and the same command again
completes the work."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disks import make_disk, mount
from tests.integration.archives import Typed, make_output, stream
from tests.integration.processes import (
    ROOT,
    count_files,
    start_command,
    wait_for_ends,
    wait_until,
)
from tests.integration.streaming import children
from tests.patience import PATIENCE
from transforms.sinks.parquet.parquet_file import verify_file

pytestmark = pytest.mark.slow

WORKERS = 2
MOST_CPU = 2.0
"""Seconds of processor time in which an interrupted run ends: far less than all its work takes."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody disturbs, beside its archive."""
    lines = stream(2000, agents=10, seconds=60, seed=23)
    random.Random(23).shuffle(lines)
    return make_output(tmp_path_factory.mktemp("ends"), lines)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def command(clean: Path, output: Path) -> list[object]:
    archive = clean.parent / "a.ndjson"
    return [
        *("backfill", "--input", archive, "--output", output),
        *("--workers", WORKERS, "--block-hours", 1, "--file-minutes", 30),
    ]


def has_spool(output: Path) -> bool:
    return any((output / "_spool").glob("*.arrows"))


def has_files(output: Path) -> bool:
    return count_files(output) > 2


Reached = Callable[[Path], bool]
MOMENTS = pytest.mark.parametrize("reached", [has_spool, has_files])


@pytest.fixture
def completes(clean: Path, output: Path, typed: Typed) -> Callable[[], None]:
    """Asserts that every file is whole, and that the same command again gives the rows of the clean run."""

    def check() -> None:
        assert [path for path in output.rglob("*.parquet") if verify_file(path)] == []
        assert typed(*command(clean, output))[0] == 0
        assert typed("reconcile", output, "--input", clean.parent / "a.ndjson")[0] == 0
        assert typed("parity", clean, output, "--identity")[0] == 0
        assert not (output / "_spool").exists()
        assert [path.name for path in output.rglob(".*")] == []

    return check


def start(clean: Path, output: Path, reached: Reached) -> tuple[subprocess.Popen[str], list[int]]:
    """The backfill in the middle, and its workers."""
    process = start_command(*command(clean, output))
    wait_until(process, lambda: reached(output))
    workers = list(children(process.pid))
    assert len(workers) == WORKERS
    return process, workers


@MOMENTS
@pytest.mark.parametrize("place", range(WORKERS))
def test_a_worker_that_is_killed_ends_the_run_with_the_fix(
    clean: Path, output: Path, completes: Callable[[], None], reached: Reached, place: int
) -> None:
    process, workers = start(clean, output, reached)
    os.kill(workers[place], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, err
    assert f"worker process {workers[place]} was killed by signal 9; what was written is complete" in err
    assert "fewer --workers or --block-reports; then run the command again" in " ".join(err.split())
    assert "Traceback" not in err
    wait_for_ends(workers)
    assert not (output / "_spool").exists()
    completes()


def read_cpu(process: int) -> float:
    """The seconds of processor time that a process has used."""
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def read_children_cpu() -> float:
    """The seconds that ended children have used, with the children for which these have waited."""
    used = os.times()
    return used.children_user + used.children_system


@MOMENTS
def test_an_interrupt_ends_all_processes_at_once(
    clean: Path, output: Path, completes: Callable[[], None], reached: Reached
) -> None:
    process, workers = start(clean, output, reached)
    used = sum(map(read_cpu, (process.pid, *workers)))
    before = read_children_cpu()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert read_children_cpu() - before - used < MOST_CPU
    assert (process.returncode, "Traceback" in err) == (130, False)
    wait_for_ends(workers)
    assert not (output / "_spool").exists()
    completes()


def test_an_interrupt_of_the_terminal_reaches_all_processes_and_ends_them_the_same_way(
    clean: Path, output: Path, completes: Callable[[], None]
) -> None:
    process, workers = start(clean, output, has_spool)
    for each in (*workers, process.pid):
        os.kill(each, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in err) == (130, False)
    wait_for_ends(workers)
    completes()


@MOMENTS
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_the_command(
    clean: Path, output: Path, completes: Callable[[], None], reached: Reached, sent: signal.Signals
) -> None:
    process, workers = start(clean, output, reached)
    process.send_signal(sent)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -sent
    wait_for_ends(workers)
    completes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An output on a file system of 400 KB."""
    (place := tmp_path / "small").mkdir()
    with make_disk(place, "400k") as disk:
        yield disk


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_without_space_for_the_spool_is_named_with_the_fix(
    clean: Path, small_disk: Path, typed: Typed, workers: int
) -> None:
    output = small_disk / "out"
    code, _, err = typed(*command(clean, output), "--workers", workers)
    said = " ".join(err.split())
    assert (code, "Traceback" in said) == (3, False)
    assert f"no space left for {output}/_spool" in said.replace("- ", "")
    assert "free some and run the same command again" in said
    assert not (output / "_spool").exists()
    mount("-o", "remount,size=64m", str(small_disk))
    assert typed(*command(clean, output), "--workers", workers)[0] == 0
    assert typed("parity", clean, output, "--identity")[0] == 0


IGNORANT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for each in map(int, sys.argv[1].split(",")) if sys.argv[1] else ():
    os.close(each)
os.execv(sys.executable, [sys.executable, "-m", "pipelines.cli", *sys.argv[2:]])
"""


@pytest.mark.parametrize("closed", ["", "0", "1", "2", "0,1,2"])
def test_a_parent_that_ignores_children_and_closes_streams_changes_nothing(
    clean: Path, output: Path, typed: Typed, closed: str
) -> None:
    words = [str(word) for word in command(clean, output)]
    subprocess.run(
        [sys.executable, "-c", IGNORANT, closed, *words], cwd=ROOT, timeout=PATIENCE, check=not closed
    )
    assert typed("parity", clean, output, "--identity")[0] == 0
    assert not (output / "_spool").exists()
