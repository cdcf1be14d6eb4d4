"""Tables as files in any storage: what is kept, given back, described and copied, in a folder and on object
storage."""

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import REPORTS, TRIMMED
from transforms.core import reach
from transforms.core.errors import DamagedFile, Refused
from transforms.core.record_batches import conform
from transforms.sinks.parquet.parquet_file import encode_file, read_file, verify_file
from transforms.sinks.parquet.parquet_store import DESCRIPTION, ParquetStore
from transforms.sinks.row_merge import merge_rows
from transforms.sinks.sink import Store, Written
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

NOON = datetime(2025, 10, 22, 12, 0, tzinfo=UTC)
HOUR = int(NOON.timestamp()) // 3600
FILE = "kpi_reports/date=2025-10-22/hour=12/1200.parquet"


@pytest.fixture
def store(storage: Storage) -> ParquetStore:
    """An empty one, of files of ten minutes."""
    return ParquetStore(storage, 10)


def reports(*minutes: int, message: str = "1-0") -> pa.RecordBatch:
    """A report of each of some minutes after noon, in all columns; the report of a minute is always the same
    one."""
    times = [NOON + timedelta(minutes=minute) for minute in minutes]
    rows = {
        "report_id": [f"r{minute}" for minute in minutes],
        "agent_id": ["a"] * len(minutes),
        "source": ["s"] * len(minutes),
    }
    rows |= {"message_id": [f"{message}{minute}" for minute in minutes], "revision": [0] * len(minutes)}
    columns = {name: pa.array(values) for name, values in rows.items()} | {
        name: pa.array(times, REPORTS.schema.field(name).type) for name in ("recorded_at", "received_at")
    }
    return conform(pa.RecordBatch.from_pydict(columns), REPORTS.schema)


def contents(storage: Storage) -> dict[str, bytes]:
    return {name: stored.data for name in storage.list_files("") if (stored := storage.get(name))}


def test_it_is_a_store_and_takes_every_table_that_messages_end_in(store: ParquetStore) -> None:
    assert isinstance(store, Store)
    assert set(store.tables) == {
        "kpi_reports",
        "kpi_aggregations",
        "kpi_fleet",
        "quarantine",
        "duplicates",
        "trimmed",
        "tasks",
        "results",
        "agents",
        "system_health",
    }


def test_rows_are_merged_with_what_is_there_and_the_same_rows_change_nothing(store: ParquetStore) -> None:
    assert store.write(REPORTS, [reports(0, 1)]) == Written(2, 1)
    assert store.write(REPORTS, [reports(1, 2), reports(10)]) == Written(2, 2)
    before = contents(store.storage)
    assert store.write(REPORTS, [reports(0, 1, 2, 10)]) == Written(0, 0)
    assert contents(store.storage) == before
    merged = merge_rows(REPORTS, reports(0, 1), reports(2)).rows
    assert (read_file(before[FILE]).equals(merged), verify_file(before[FILE])) == (True, None)


def test_nothing_writes_nothing(store: ParquetStore) -> None:
    assert (store.write(REPORTS, []), store.write(REPORTS, [reports()])) == (Written(0, 0), Written(0, 0))
    assert list(store.storage.list_names("")) == []


def test_a_file_that_was_changed_is_not_merged_and_is_named(store: ParquetStore) -> None:
    store.write(REPORTS, [reports(0)])
    stored = store.storage.get(FILE)
    assert stored is not None
    store.storage.put(FILE, stored.data[:-1], stored.version)
    with pytest.raises(DamagedFile, match=f"{FILE} cannot be read.*; move it away"):
        store.write(REPORTS, [reports(1)])
    with pytest.raises(DamagedFile, match=f"{FILE} cannot be read"):
        list(store.read_reports(HOUR))


def test_the_reports_of_an_hour_come_back_in_the_order_of_time(store: ParquetStore) -> None:
    store.write(REPORTS, [reports(*range(-60, 120, 7))])
    batches = list(store.read_reports(HOUR))
    assert (
        pa.Table.from_batches(batches)
        .sort_by("recorded_at")
        .equals(pa.Table.from_batches([reports(*range(3, 60, 7))]))
    )
    spans = [batch["recorded_at"].to_pylist() for batch in batches]
    assert len(spans) == 6
    assert all(max(before) < min(after) for before, after in zip(spans, spans[1:]))


def test_an_hour_without_reports_has_none(store: ParquetStore) -> None:
    assert (list(store.read_reports(HOUR)), store.has_reports()) == ([], False)
    store.write(
        TRIMMED,
        [pa.RecordBatch.from_pylist([{"source": "s", "after": "1-0", "revision": 1}], TRIMMED.schema)],
    )
    assert not store.has_reports()
    store.write(REPORTS, [reports(0)])
    assert (list(store.read_reports(HOUR + 1)), store.has_reports()) == ([], True)


def test_a_file_of_an_older_version_comes_back_in_the_columns_of_this_one(store: ParquetStore) -> None:
    store.storage.put(FILE, encode_file(reports(0).drop_columns(["memory_q3"])), None)
    (batch,) = store.read_reports(HOUR)
    assert batch.equals(reports(0))


def test_a_new_place_has_no_description_and_then_the_one_that_was_kept(store: ParquetStore) -> None:
    assert store.read_description() is None
    description = {"layout": 1, "schemas": {"kpi_report": 1}}
    for _ in range(2):
        store.prepare(description)
        assert store.read_description() == description
    with pytest.raises(Refused, match=r"another job has begun .* with other settings"):
        store.prepare({"layout": 2, "schemas": {}})
    assert list(store.storage.list_names("")) == [DESCRIPTION]


def test_a_place_that_holds_something_else_is_refused_and_stays_as_it_is(store: ParquetStore) -> None:
    for name in ("thesis.tex", "music/a.flac", "_lock", ".hidden"):
        store.storage.put(name, b"mine", None)
    before = contents(store.storage)
    for attempt in (store.read_description, lambda: store.prepare({})):
        with pytest.raises(Refused, match=r"holds music, thesis\.tex but no _kpiflow\.json; name an empty"):
            attempt()
    (finding,) = [finding for finding in store.check() if finding.problem]
    assert (finding.what, "thesis.tex" in finding.problem) == (
        "an output of kpiflow, or an empty place",
        True,
    )
    assert contents(store.storage) == before


def test_what_a_job_or_a_disk_keeps_beside_the_tables_is_nothing_else(store: ParquetStore) -> None:
    for name in ("_stream/job.json", "_lock", "lost+found/1"):
        store.storage.put(name, b"", None)
    assert store.read_description() is None


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_damaged_description_is_named(store: ParquetStore, text: bytes) -> None:
    store.storage.put(DESCRIPTION, text, None)
    for attempt in (store.read_description, lambda: store.prepare({})):
        with pytest.raises(Refused, match=r"_kpiflow\.json is damaged.*; put it back from a copy"):
            attempt()


def test_of_two_jobs_that_begin_a_place_at_once_the_second_is_refused_unless_they_agree(
    store: ParquetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare({"settings": 1})
    monkeypatch.setattr(type(store.storage), "get", late(type(store.storage).get))
    store.prepare({"settings": 1})
    monkeypatch.setattr(type(store.storage), "get", late(type(store.storage).get))
    with pytest.raises(Refused, match=r"another job has begun .* at the same time; run this one again"):
        store.prepare({"settings": 2})


def late(get):  # type: ignore[no-untyped-def]
    """A `get` that finds nothing the first time, as it would have a moment earlier."""
    calls: list[str] = []

    def first_nothing(self, name):  # type: ignore[no-untyped-def]
        calls.append(name)
        return None if len(calls) == 1 else get(self, name)

    return first_nothing


def test_a_copy_holds_the_description_and_the_tables_byte_by_byte_and_nothing_else(
    store: ParquetStore, tmp_path: Path
) -> None:
    store.prepare({"layout": 1})
    store.write(REPORTS, [reports(*range(0, 180, 7)), reports(1, message="2-")])
    store.write(REPORTS, [reports(7, message="0-")])
    kept = contents(store.storage)
    assert {name.split("/")[0] for name in kept} == {DESCRIPTION, "kpi_reports", "duplicates"}
    for name in ("_stream/job.json", "kpi_reports/notes.txt"):
        store.storage.put(name, b"not a table", None)
    (tmp_path / "copy").mkdir()
    store.copy_to(tmp_path / "copy")
    assert contents(LocalFolder(tmp_path / "copy")) == kept


def test_a_worker_on_another_machine_does_not_begin_a_second_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pickle.loads(pickle.dumps(ParquetStore(LocalFolder(tmp_path / "out"))))
    monkeypatch.setattr(reach, "gethostname", lambda: "worker-7")
    text = f"the worker on worker-7 cannot read {tmp_path}/out/_kpiflow.json; put the output in a folder"
    with pytest.raises(Refused, match=text):
        store.write(REPORTS, [])
    with pytest.raises(Refused, match=text):
        list(store.read_reports(0))
    assert not (tmp_path / "out").exists()
    store.prepare({"settings": {}})  # as the launcher does, in a folder that is shared
    store.write(REPORTS, [])
    assert list(store.read_reports(0)) == []
