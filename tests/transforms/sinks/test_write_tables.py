"""Rows of each table find the sinks that take it, gathered or by the bundle, and wait for an unavailable
sink."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from schemas.partitioning import assign_files
from schemas.readers.verdicts import Rejection
from schemas.tables import DUPLICATES, QUARANTINED, TIME, Table
from tests.builders import NOON, messages, report
from transforms.core import retry
from transforms.core.errors import Finding, Refused, Unavailable
from transforms.core.record_batches import build_batch
from transforms.sinks import write_tables
from transforms.sinks.sink import Sink, Written
from transforms.sinks.sink_status import SinkStatus, read_sink_statuses
from transforms.sinks.write_tables import (
    WriteGathered,
    WriteOptions,
    WriteTables,
    key_by_writer,
    split_by_file,
    tag_by_table,
    write_or_quarantine,
)
from transforms.validation.quarantine_rows import quarantine_unwritten

NAMES = [QUARANTINED.name, DUPLICATES.name]


def duplicates(count: int, apart: timedelta = timedelta(0)) -> pa.RecordBatch:
    """Duplicates of one minute, or so far apart."""
    given = messages([report(i) for i in range(count)], NOON)
    columns = {name: given[name] for name in ("source", "message_id", "received_at")}
    columns |= {"report_id": given["message_id"], "revision": pa.array([1] * count, pa.int64())}
    columns["received_at"] = pa.array([NOON + i * apart for i in range(count)], TIME)
    return build_batch(columns, DUPLICATES.schema, count)


@pytest.mark.parametrize("writers", [1, 3])
def test_gathered_batches_find_their_table_again(writers: int) -> None:
    batch = duplicates(5)
    for key, rows in key_by_writer(batch, DUPLICATES.name, NAMES.index(DUPLICATES.name), 1, writers):
        (found,) = tag_by_table((key, [rows]), NAMES, writers)
        assert (found.tag, found.value) == (DUPLICATES.name, batch)


def test_a_file_has_one_writer_in_all_batches() -> None:
    keys = {
        key for _ in range(3) for key, _ in key_by_writer(duplicates(7), DUPLICATES.name, 2, 1, writers=5)
    }
    assert len(keys) == 1
    assert keys.pop() // 5 == 2


def test_a_large_batch_is_gathered_in_parts() -> None:
    parts = [rows for _, rows in key_by_writer(duplicates(5000), DUPLICATES.name, 2, 1, writers=1)]
    assert [rows.num_rows for rows in parts] == [2048, 2048, 904]
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([duplicates(5000)]))


@dataclass(frozen=True)
class Ledger:
    """A sink that writes a line for each row into a file of each table, after so many refusals of a kind."""

    folder: Path
    tables: tuple[str, ...] = tuple(NAMES)
    gather_seconds: int = 1
    fails: int = 0
    refuses: bool = False

    @property
    def name(self) -> str:
        return f"ledger {self.folder.name}"

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        if self.refuses:
            raise Refused("the ledger is closed: open it")
        self.folder.mkdir(exist_ok=True)
        tries = self.folder / "tries"
        with tries.open("a") as file:
            file.write("x")
        if tries.stat().st_size <= self.fails:
            raise Unavailable("the ledger is elsewhere")
        with (self.folder / table.name).open("a") as file:
            file.writelines(f"{each}\n" for batch in rows for each in batch["message_id"].to_pylist())
        return Written(sum(batch.num_rows for batch in rows), 1)

    def check(self) -> Iterator[Finding]:
        yield Finding("the ledger")

    def lines(self, table: str) -> list[str]:
        """What it took of a table."""
        path = self.folder / table
        return sorted(path.read_text().split()) if path.exists() else []


def written(write: beam.PTransform) -> beam.runners.runner.PipelineResult:
    """A pipeline that writes five duplicates, through `write`, beside a quarantine without rows."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    rows = pipeline | beam.Create([duplicates(5)]).with_output_types(pa.RecordBatch)
    nothing = pipeline | "Nothing" >> beam.Create([]).with_output_types(pa.RecordBatch)
    _ = {DUPLICATES.name: rows, QUARANTINED.name: nothing} | write
    return pipeline.run()


@pytest.mark.parametrize("transform", [WriteTables, WriteGathered])
def test_each_sink_gets_the_tables_that_it_takes(
    transform: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        write_tables, "Gather", lambda seconds: beam.GroupByKey()
    )  # this engine knows no processing time
    both, slow = Ledger(tmp_path / "a"), Ledger(tmp_path / "c", gather_seconds=2)
    other = Ledger(tmp_path / "b", (QUARANTINED.name,))
    written(transform(WriteOptions((both, other, slow)), 60))
    assert both.lines(DUPLICATES.name) == slow.lines(DUPLICATES.name) == ["m0", "m1", "m2", "m3", "m4"]
    assert both.lines(QUARANTINED.name) == other.lines(DUPLICATES.name) == other.lines(QUARANTINED.name) == []


def test_what_is_written_is_counted(tmp_path: Path) -> None:
    counters = (
        written(WriteTables(WriteOptions((Ledger(tmp_path / "a"),)), 60))
        .metrics()
        .query(MetricsFilter().with_namespace("sink"))
    )
    assert {each.key.metric.name: each.committed for each in counters["counters"]} == {
        "rows_written": 5,
        "requests": 1,
    }


def test_an_unavailable_sink_is_retried_and_its_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    said: list[str] = []
    report = SinkStatus.report_waiting
    monkeypatch.setattr(
        SinkStatus, "report_waiting", lambda status, *words: said.append(words[1]) or report(status, *words)
    )
    ledger = Ledger(tmp_path / "a", fails=3)
    written(WriteTables(WriteOptions((ledger,), patience_seconds=60, status_folder=tmp_path), 60))
    assert said == ["the ledger is elsewhere"] * 3
    assert ledger.lines(DUPLICATES.name) == ["m0", "m1", "m2", "m3", "m4"]
    status = read_sink_statuses(tmp_path)[0]
    received = int(NOON.timestamp() * 1000)
    assert status | {"time": 0} == {
        "sink": "ledger a", "table": DUPLICATES.name, "time": 0, "rows": 5,
        "newest": received, "waiting_since": None, "error": None,
    }  # fmt: skip


def test_patience_with_a_sink_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    with pytest.raises(Unavailable, match="the ledger is elsewhere"):
        written(
            WriteTables(
                WriteOptions(
                    (Ledger(tmp_path / "a", fails=1_000_000),), patience_seconds=0.2, status_folder=tmp_path
                ),
                60,
            )
        )
    status = read_sink_statuses(tmp_path)[0]
    assert status["error"] == "the ledger is elsewhere"
    assert 0 < status["waiting_since"] <= time.time() * 1000


def test_what_a_sink_refuses_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the ledger is closed: open it"):
        written(
            WriteTables(WriteOptions((Ledger(tmp_path / "a", refuses=True),), status_folder=tmp_path), 60)
        )
    assert read_sink_statuses(tmp_path)[0]["error"] == "the ledger is closed: open it"


WRITES: list[set[str]] = []


@dataclass(frozen=True)
class Paths:
    """A sink that notes which files each write has rows of: those of a bundle."""

    tables: tuple[str, ...] = (DUPLICATES.name,)
    name: str = "paths"

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        WRITES.append({path for batch in rows for path in assign_files(table, batch, 10)[1]})
        return Written(sum(batch.num_rows for batch in rows), 1)


@pytest.mark.parametrize(("whole", "writers"), [((), {1}), ((DUPLICATES.name,), {4})])
def test_a_file_is_written_by_one_bundle_unless_batches_are_of_whole_files(
    whole: tuple[str, ...], writers: set[int]
) -> None:
    WRITES.clear()
    batches = [duplicates(60, apart=timedelta(minutes=1)) for _ in range(4)]
    options = PipelineOptions(["--direct_num_workers=4", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        rows = pipeline | beam.Create(batches).with_output_types(pa.RecordBatch)
        write = WriteTables(WriteOptions((cast(Sink, Paths()),)), 10, whole)
        _ = {DUPLICATES.name: rows} | write
    of_files = Counter(path for paths in WRITES for path in paths)
    assert len(of_files) == 6
    assert set(of_files.values()) == writers


def test_rows_are_grouped_by_the_file_that_they_are_written_to() -> None:
    given = duplicates(60, apart=timedelta(minutes=1))
    parts = dict(split_by_file(given, DUPLICATES, 20))
    assert list(parts) == assign_files(DUPLICATES, given, 20)[1]
    assert [rows.num_rows for rows in parts.values()] == [20, 20, 20]
    assert pa.Table.from_batches(parts.values()) == pa.Table.from_batches([given])


def test_many_bytes_are_written_before_the_bundle_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_tables, "FLUSH_BYTES", 1)
    ledger = Ledger(tmp_path / "a")
    writer = write_tables._WriteFn(DUPLICATES.name, ledger, 1, SinkStatus(None, 0, DUPLICATES.name))
    writer.start_bundle()
    writer.process(duplicates(2))
    assert ledger.lines(DUPLICATES.name) == ["m0", "m1"]


@dataclass(frozen=True)
class Picky:
    """A sink that raises at some messages, and keeps the others by table."""

    raises: frozenset[str]
    kept: dict[str, list[str]]

    def write(self, table: Table, rows: Sequence[pa.RecordBatch]) -> Written:
        named = [name for batch in rows for name in batch["message_id"].to_pylist()]
        if table == DUPLICATES and self.raises & set(named):
            raise OverflowError("date value out of range")
        self.kept.setdefault(table.name, []).extend(named)
        return Written(len(named), 1)


def test_a_row_at_which_a_write_raises_is_refused_there_and_its_neighbours_are_written() -> None:
    sink = Picky(frozenset({"m2", "m5"}), {})
    assert write_or_quarantine(cast(Sink, sink), DUPLICATES, [duplicates(4), duplicates(7)]).rows == 11
    assert {table: sorted(set(names)) for table, names in sink.kept.items()} == {
        "duplicates": ["m0", "m1", "m3", "m4", "m6"], "quarantine": ["m2", "m5"],
    }  # fmt: skip


def test_a_fault_that_is_no_rows_is_raised() -> None:
    with pytest.raises(OverflowError):
        write_or_quarantine(
            cast(Sink, Picky(frozenset(f"m{i}" for i in range(4)), {})), DUPLICATES, [duplicates(4)]
        )


def test_a_refused_row_is_kept_as_json_with_the_error() -> None:
    rows = quarantine_unwritten(
        duplicates(1), [Rejection("refused", "OverflowError: x", None, "write")]
    ).to_pylist()
    assert [(row["reason"], row["rule"], json.loads(row["payload"])["report_id"]) for row in rows] == [
        ("refused", "write", "m0")
    ]
