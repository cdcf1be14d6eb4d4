"""A batch graph on worker processes."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from runners import direct
from runners.forked_runner import InWorker
from runners.worker_processes import WorkerDied, WorkerProcess, fork_workers
from transforms.core import arrow_coder
from transforms.core.arrow_coder import pass_by_reference

ADDED = Metrics.counter("test", "added")
REPORTED: list[tuple[int, str]] = []


@pytest.fixture
def workers() -> Iterator[Sequence[WorkerProcess]]:
    with fork_workers(2) as forked:
        yield forked


def add(key: int, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    ADDED.inc()
    return key, sum(sum(batch["n"].to_pylist()) for batch in batches)


def wire(root: beam.Pipeline, folder: Path, keys: int) -> None:
    """Write, for each key, the sum of the batches that it groups, and the process that adds."""
    made = beam.Map(make).with_output_types(tuple[int, pa.RecordBatch])
    grouped = root | beam.Create(range(keys * 3)) | made | beam.GroupByKey()

    def keep(key: int, total: int) -> None:
        (folder / f"{key}").write_text(f"{total} {os.getpid()}")

    _ = grouped | beam.MapTuple(add) | beam.MapTuple(keep)
    _ = root | "Nothing" >> beam.Create([]) | "Never" >> beam.Map(lambda _: 1 / 0)


def make(number: int) -> tuple[int, pa.RecordBatch]:
    return number // 3, pa.RecordBatch.from_pydict({"n": [number] * 1000})


def read(folder: Path) -> tuple[dict[int, int], set[int]]:
    """The sum of each key, and the processes."""
    words = {int(path.name): path.read_text().split() for path in folder.iterdir()}
    return {key: int(total) for key, (total, _) in words.items()}, {int(each) for _, each in words.values()}


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """What the tests enter in every process: references, and a mark that it was entered and left."""
    mark = folder.with_name(f"{folder.name}-{os.getpid()}")
    mark.write_text("entered")
    with pass_by_reference(folder):
        yield
    mark.write_text("left")


def tell() -> tuple[int, str]:
    return os.getpid(), "a bundle"


@pytest.mark.parametrize("keys", [1, 2, 300])
def test_every_key_is_grouped_once_and_bundles_run_in_the_workers(
    workers: Sequence[WorkerProcess], tmp_path: Path, keys: int
) -> None:
    (spool := tmp_path / "spool").mkdir()
    (out := tmp_path / "out").mkdir()
    in_worker = InWorker(partial(within, spool), tell, REPORTED.append)
    REPORTED.clear()
    result = direct.run(partial(wire, folder=out, keys=keys), workers=workers, in_worker=in_worker)
    totals, processes = read(out)
    assert totals == {key: 1000 * (9 * key + 3) for key in range(keys)}
    forked = {each.process for each in workers}
    assert processes <= forked
    if keys == 300:
        assert processes == forked, "both work"
    counted = result.metrics().query()["counters"]
    assert [each.result for each in counted if each.key.metric.name == "added"] == [keys]
    assert {process for process, _ in REPORTED} <= forked
    assert REPORTED
    marks = {path.name: path.read_text() for path in tmp_path.glob("spool-*")}
    assert marks == {f"spool-{process}": "left" for process in [*forked, os.getpid()]}
    assert arrow_coder._spool is None


def test_workers_run_several_graphs_one_after_the_other(
    workers: Sequence[WorkerProcess], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (out := tmp_path / name).mkdir()
        (spool := tmp_path / f"{name}.spool").mkdir()
        direct.run(partial(wire, folder=out, keys=20), (), workers, InWorker(partial(within, spool)))
        assert len(read(out)[0]) == 20


def fail(number: int) -> None:
    if number == 7:
        try:
            {}["x"]
        except KeyError as error:
            raise ZeroDivisionError(f"number {number}") from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_what_a_step_raises_is_raised_here_with_its_cause(workers: Sequence[WorkerProcess]) -> None:
    with pytest.raises(Exception, match="number 7") as raised:
        direct.run(
            lambda root: root | beam.Create(range(100)) | beam.Reshuffle() | beam.Map(fail), (), workers
        )
    kinds = [type(error) for error in causes(raised.value)]
    assert ZeroDivisionError in kinds
    assert KeyError in kinds
    assert any(
        "in fail" in note for error in causes(raised.value) for note in getattr(error, "__notes__", [])
    )


def test_after_a_failed_run_idle_workers_still_work(workers: Sequence[WorkerProcess], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="number 7"):
        direct.run(lambda root: root | beam.Create([7]) | beam.Map(fail), (), workers)
    assert all(each.is_idle for each in workers)
    direct.run(partial(wire, folder=tmp_path, keys=2), (), workers)
    assert len(read(tmp_path)[0]) == 2


def test_a_worker_that_is_killed_ends_the_run(workers: Sequence[WorkerProcess]) -> None:
    def die(number: int) -> None:
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerDied, match="was killed by signal 9"):
        direct.run(
            lambda root: root | beam.Create(range(100)) | beam.Reshuffle() | beam.Map(die), (), workers
        )


def test_a_step_with_state_is_refused_by_its_name(workers: Sequence[WorkerProcess]) -> None:
    spec = ReadModifyWriteStateSpec("seen", VarIntCoder())

    class Remember(beam.DoFn):
        def process(self, pair: tuple[int, int], seen: object = beam.DoFn.StateParam(spec)) -> None:
            pass

    with pytest.raises(NotImplementedError, match="Remember"):
        direct.run(
            lambda root: root | beam.Create([(1, 1)]) | "Remember" >> beam.ParDo(Remember()), (), workers
        )
