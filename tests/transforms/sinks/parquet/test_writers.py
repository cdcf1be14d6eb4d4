"""Several writers of the same files, whose calls fall between each other's in every way: no row is lost,
whatever answers are."""

import random
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any

import pyarrow as pa
import pytest

from schemas.tables import DUPLICATES, REPORTS, Table
from tests.s3 import S3Server
from transforms.core.errors import Unavailable
from transforms.sinks.parquet import file_merge
from transforms.sinks.parquet.parquet_file import read_file, verify_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage, Stored

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
COLUMNS = ("report_id", "agent_id", "recorded_at", "source", "message_id", "received_at", "revision")
SLIM = replace(REPORTS, schema=pa.schema([REPORTS.schema.field(name) for name in COLUMNS]))
"""kpi_reports without its measures, which take time."""
Message = tuple[int, int]
"""The number of a report, and that of the message it came in."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_merge, "_FIRST_PAUSE", 0.0)


@dataclass(frozen=True)
class Unlocked(LocalFolder):
    """A folder that no lock guards, only the version of each file."""

    def lock(self, folder: str) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class Watched:
    """A storage that lets others go first before each call, and loses some answers."""

    storage: Storage
    step: Callable[[], None]
    loses: Callable[[], bool] = lambda: False
    threads: int = 1

    def get(self, name: str) -> Stored | None:
        self.step()
        return self.storage.get(name)

    def put(self, name: str, data: bytes | bytearray, version: Hashable | None) -> None:
        self.step()
        self.storage.put(name, data, version)
        if self.loses():
            raise Unavailable("the answer was lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def interleaved(chance: random.Random, jobs: Sequence[Callable[[Callable[[], None]], None]]) -> None:
    """Run jobs of which one at a time moves, from one `step` that it calls to its next; chance says which."""
    gates, arrived = [threading.Semaphore(0) for _ in jobs], Queue[tuple[int, bool]]()

    def run(number: int, job: Callable[[Callable[[], None]], None]) -> None:
        def step() -> None:
            arrived.put((number, True))
            gates[number].acquire()

        try:
            step()
            job(step)
        finally:
            arrived.put((number, False))

    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(run, number, job) for number, job in enumerate(jobs)]
        waiting = {arrived.get()[0] for _ in jobs}
        while waiting:
            gates[chance.choice(sorted(waiting))].release()
            number, goes_on = arrived.get()
            waiting = waiting | {number} if goes_on else waiting - {number}
        assert [job.result() for job in running] == [None] * len(jobs)


def rows(messages: Sequence[Message]) -> pa.RecordBatch:
    """Reports, each in its message; those of odd numbers lie in a second file."""
    times = [NOON + timedelta(minutes=10 * (report % 2)) for report, _ in messages]
    received = [NOON + timedelta(seconds=message) for _, message in messages]
    columns = {
        "report_id": [f"r{report}" for report, _ in messages],
        "agent_id": ["a"] * len(messages),
        "recorded_at": times,
        "source": ["s"] * len(messages),
        "message_id": [f"{message}-0" for _, message in messages],
        "received_at": received,
        "revision": [0] * len(messages),
    }
    return pa.RecordBatch.from_pydict(columns, SLIM.schema)


def read_keys(storage: Storage, table: Table) -> set[tuple[str, str]]:
    """(report_id, message_id) of the rows of a table, each once."""
    found: list[tuple[str, str]] = []
    for name in storage.list_files(table.name):
        stored = storage.get(name)
        assert stored is not None
        assert verify_file(stored.data) is None
        batch = read_file(stored.data)
        found += zip(batch["report_id"].to_pylist(), batch["message_id"].to_pylist())
    assert len(set(found)) == len(found)
    return set(found)


def expected(messages: Sequence[Message]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The first message of each report is the report, the others are its duplicates."""
    first = {report: min(message for each, message in messages if each == report) for report, _ in messages}
    named = [
        {(f"r{report}", f"{message}-0") for report, message in part}
        for part in (first.items(), set(messages) - set(first.items()))
    ]
    return named[0], named[1]


def patient(store: ParquetStore, batches: Sequence[pa.RecordBatch]) -> None:
    """Write batches one after the other, each again until it is taken."""
    for batch in batches:
        for _ in range(100):
            try:
                store.write(SLIM, [batch])
                break
            except Unavailable:
                continue
        else:
            raise AssertionError("a write was never taken")


def check_interleaved(storage: Storage, seed: int) -> None:
    """Two writers of reports that they partly share, some answers lost; then the tables are those of all
    messages."""
    chance = random.Random(seed)
    parts = [
        [[(chance.randrange(4), chance.randrange(1000)) for _ in range(2)] for _ in range(2)]
        for _ in range(2)
    ]
    jobs = [
        lambda step, part=part: patient(
            ParquetStore(Watched(storage, step, lambda: chance.random() < 0.2), 10),
            [rows(messages) for messages in part],
        )
        for part in parts
    ]
    interleaved(chance, jobs)
    everything = [message for part in parts for messages in part for message in messages]
    assert (read_keys(storage, REPORTS), read_keys(storage, DUPLICATES)) == expected(everything)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_two_writers_lose_nothing_on_object_storage_however_their_calls_fall(
    bucket_server: S3Server, seed: int
) -> None:
    check_interleaved(bucket_server.storage("bucket", f"interleaved/{seed}"), seed)


def test_two_writers_lose_nothing_in_a_folder_without_locks_however_their_calls_fall(tmp_path: Path) -> None:
    for seed in range(20):
        check_interleaved(Unlocked(tmp_path / str(seed)), seed)


def test_the_scheduler_finds_the_rows_that_are_lost_without_versions(bucket_server: S3Server) -> None:
    def losing() -> Iterator[int]:
        for seed in range(10):
            try:
                check_interleaved(
                    bucket_server.storage("bucket", f"unconditional/{seed}", conditions=False), seed
                )
            except AssertionError:
                yield seed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transforms.storage.object_storage.ObjectStorage.lock", lambda *_: nullcontext())
        assert len(list(losing())) > 1


@pytest.mark.parametrize("place", ["folder", "objects", "objects without conditions"])
def test_real_threads_lose_nothing(place: str, bucket_server: S3Server, tmp_path: Path) -> None:
    storage = (
        LocalFolder(tmp_path)
        if place == "folder"
        else bucket_server.storage("bucket", place, conditions=place == "objects")
    )
    chance = random.Random(5)
    parts = [
        [[(chance.randrange(8), chance.randrange(1000)) for _ in range(3)] for _ in range(3)]
        for _ in range(4)
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(
            pool.map(
                lambda part: patient(ParquetStore(storage, 10), [rows(messages) for messages in part]), parts
            )
        )
    everything = [message for part in parts for messages in part for message in messages]
    assert (read_keys(storage, REPORTS), read_keys(storage, DUPLICATES)) == expected(everything)


class Killed(BaseException):
    """The process ends here."""


def contents(storage: Storage) -> dict[str, bytes]:
    return {name: stored.data for name in storage.list_files("") if (stored := storage.get(name))}


def test_a_writer_that_dies_between_any_two_calls_loses_nothing_and_the_same_write_then_converges(
    bucket_server: S3Server,
) -> None:
    before, after = rows([(0, 5), (1, 2), (2, 3)]), rows([(0, 1), (1, 7), (3, 4)])
    calm = bucket_server.storage("bucket", "calm")
    for batch in (before, after):
        ParquetStore(calm, 10).write(SLIM, [batch])

    def dies(storage: Storage, calls: int) -> bool:
        left = iter(range(calls))

        def step() -> None:
            if next(left, None) is None:
                raise Killed

        try:
            ParquetStore(Watched(storage, step), 10).write(SLIM, [after])
        except Killed:
            return True
        return False

    for calls in range(100):
        storage = bucket_server.storage("bucket", f"dies/{calls}")
        ParquetStore(storage, 10).write(SLIM, [before])
        died = dies(storage, calls)
        assert {message for table in (REPORTS, DUPLICATES) for _, message in read_keys(storage, table)} >= {
            "5-0",
            "2-0",
            "3-0",
        }
        ParquetStore(storage, 10).write(SLIM, [after])
        assert contents(storage) == contents(calm)
        if not died:
            break
    assert calls > 4


def test_a_writer_that_others_overtake_time_and_again_gives_up_for_now(bucket_server: S3Server) -> None:
    storage = bucket_server.storage("bucket", "overtaken")
    numbers = iter(range(1000))

    def overtake() -> None:
        ParquetStore(storage, 10).write(SLIM, [rows([(2 * (number := next(numbers)) + 2, number)])])

    store = ParquetStore(Watched(storage, overtake), 10)
    with pytest.raises(
        Unavailable, match=r"1200\.parquet was changed by other writers 10 times .*; let fewer write"
    ):
        store.write(SLIM, [rows([(0, 0)])])
    assert len(read_keys(storage, REPORTS)) == next(numbers)
