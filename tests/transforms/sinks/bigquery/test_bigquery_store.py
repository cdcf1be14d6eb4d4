"""The store in BigQuery, on an emulator: what it holds after writes is what files hold after the same
writes."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow as pa
import pytest
from google.cloud import bigquery

from schemas.tables import AGENTS, AGGREGATIONS, DUPLICATES, REPORTS, RESULTS, TABLES, TASKS, TRIMMED, Table
from tests.bigquery import Emulator, Faulty, store
from transforms.core.errors import Refused
from transforms.core.grouping import sort_by_columns
from transforms.core.record_batches import concat
from transforms.sinks.bigquery.bigquery_store import BigQuery
from transforms.sinks.bigquery.dataset_tables import new_inbox
from transforms.sinks.parquet.parquet_file import read_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.row_merge import has_contents
from transforms.sinks.sink import Store
from transforms.storage.local_folder import LocalFolder

ALL = (*TABLES.values(), TRIMMED)
MIDNIGHT = datetime(2025, 10, 22, tzinfo=UTC)
HOUR = int(MIDNIGHT.timestamp()) // 3600
DESCRIPTION = {"layout": 1, "schemas": {}, "settings": {"text": 'it\'s \\ "quoted"\n'}}


@pytest.fixture
def place(emulator: Emulator) -> BigQuery:
    """A store of its own, ready for rows."""
    made = store(f"d{uuid4().hex}", emulator, "EU")
    made.prepare(DESCRIPTION)
    return made


def batch(table: Table, *rows: dict) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=table.schema)


def report(number: int, revision: int = 1, message: str = "5-9", **fields: object) -> dict:
    at = MIDNIGHT + timedelta(minutes=number)
    identity = {
        "report_id": f"r{number}",
        "source": "s",
        "message_id": message,
        "received_at": at,
        "revision": revision,
    }
    return identity | {"agent_id": "a", "recorded_at": at, "latency_ms": float(revision)} | fields


def drawn(lot: random.Random, table: Table, size: int) -> pa.RecordBatch:
    """Rows with few keys and few messages, around midnight; a key, or a message, always has the same time."""

    def row() -> dict:
        key = lot.randrange(6)
        # One of three messages brings a report or a record; elsewhere the message is the key.
        message = lot.choice([9, 10, 11]) if has_contents(table) else key
        at = MIDNIGHT + timedelta(hours=key - 3)
        values = {name: scalar(lot, kind) for name, kind in zip(table.schema.names, table.schema.types)}
        values |= {
            "source": "s",
            "message_id": f"{key}-{message}",
            "received_at": MIDNIGHT + timedelta(hours=message - 3),
        }
        values |= {"received_at": None} if message in (5, 11) else {}
        values |= {
            "report_id": f"r{key}",
            "recorded_at": at,
            "after": f"{key}",
            "agent_id": "a",
            "time_window_start": at,
            "task_id": f"t{key}",
            "version": f"v{key}",
            "effective_at": at,
            "created_at": at,
            "completed_at": at,
        }
        values |= {"granularity": lot.choice(["5s", "1h"]), "revision": lot.randrange(1, 4)}
        return {name: values[name] for name in table.schema.names}

    return batch(table, *(row() for _ in range(size)))


def scalar(lot: random.Random, kind: pa.DataType) -> object:
    """A value of a type, or null."""
    if lot.random() < 0.2:
        return None
    if pa.types.is_struct(kind):
        return {child.name: scalar(lot, child.type) for child in kind} | {"hostname": "é'\"\\"}
    if pa.types.is_map(kind):
        kept = str if pa.types.is_string(kind.item_type) else float
        return [(f"k{place}", kept(lot.random())) for place in range(lot.randrange(1, 3))]
    if pa.types.is_list(kind):
        return [str(lot.random()) for _ in range(lot.randrange(1, 3))]
    if pa.types.is_timestamp(kind):
        return MIDNIGHT + timedelta(microseconds=lot.randrange(10**9))
    if pa.types.is_binary(kind):
        return lot.randbytes(3)
    return {"string": str(lot.random()), "bool": lot.random() < 0.5}.get(str(kind), lot.randrange(1000))


def held(place: Store, folder: Path) -> dict[str, list[dict]]:
    """All rows of a store, table by table, sorted."""
    place.copy_to(folder)
    tables = {}
    for table in ALL:
        parts = [read_file(path) for path in folder.glob(f"{table.name}/**/*.parquet")]
        rows = concat(parts) if parts else batch(table)
        tables[table.name] = rows.take(pa.array(sort_by_columns(rows, table.key))).to_pylist()
    return tables


def compared(place: BigQuery, writes: Sequence[tuple[Table, pa.RecordBatch]], folder: Path) -> None:
    """That a store holds what files hold after the same writes."""
    files = ParquetStore(LocalFolder(folder / "files"))
    for table, rows in writes:
        files.write(table, [rows])
    assert held(place, folder / "copy") == held(files, folder / "same")


@pytest.mark.parametrize("seed", range(3))
def test_any_writes_leave_the_rows_that_files_have(place: BigQuery, tmp_path: Path, seed: int) -> None:
    lot = random.Random(seed)
    records = [TASKS, RESULTS, AGENTS][seed]
    writes = [(table, drawn(lot, table, 8)) for table in lot.choices(ALL, k=3) + [REPORTS, records] * 2]
    writes += lot.sample(writes, 2)
    for table, rows in writes:
        place.write(table, [rows])
    compared(place, writes, tmp_path)


def test_two_writers_at_once_leave_the_rows_of_both_once(emulator: Emulator, tmp_path: Path) -> None:
    lot = random.Random(7)
    writes = [(table, drawn(lot, table, 8)) for table in (REPORTS, AGGREGATIONS, REPORTS, DUPLICATES)]
    with Faulty(emulator) as way:
        place = store(f"d{uuid4().hex}", way)
        place.prepare(DESCRIPTION)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda write: place.write(write[0], [write[1]]), writes + writes[::-1]))
        compared(place, writes, tmp_path)


def test_a_row_that_is_written_again_is_not_new(place: BigQuery) -> None:
    rows = [batch(REPORTS, report(1), report(2))]
    assert [place.write(REPORTS, rows).rows for _ in range(2)] == [2, 0]


def test_a_later_revision_stands_for_the_row_and_an_earlier_one_changes_nothing(place: BigQuery) -> None:
    taken = [place.write(REPORTS, [batch(REPORTS, report(1, revision))]).rows for revision in (2, 3, 1)]
    (rows,) = place.read_reports(HOUR)
    assert (taken, rows["revision"].to_pylist(), rows["latency_ms"].to_pylist()) == ([1, 1, 0], [3], [3.0])


def test_a_displaced_message_comes_to_the_duplicates_as_with_files(place: BigQuery, tmp_path: Path) -> None:
    ours, theirs = report(1, message="5-9"), report(1, message="5-10")
    writes = [
        (REPORTS, batch(REPORTS, *rows)) for rows in ([theirs, ours | {"revision": 0}], [ours], [theirs])
    ]
    for table, rows in writes:
        place.write(table, [rows])
    assert [row["message_id"] for row in held(place, tmp_path / "now")[DUPLICATES.name]] == ["5-9", "5-10"]
    compared(place, writes, tmp_path)


def test_rows_of_many_days_go_in_merges_of_their_own(
    place: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.sinks.bigquery.columns.MERGE_DAYS", 2)
    rows = batch(REPORTS, *(report(number * 1440) for number in range(5)))
    assert place.write(REPORTS, [rows]) == (5, 6)
    compared(place, [(REPORTS, rows)], tmp_path)


def test_no_rows_are_no_request(place: BigQuery) -> None:
    assert place.write(REPORTS, [batch(REPORTS)]) == (0, 0)


def test_the_reports_of_an_hour_come_in_the_schema_and_the_order_of_time(place: BigQuery) -> None:
    rows = batch(
        REPORTS,
        *(report(number, custom_metrics=[("m", 0.5)], hour_of_day=3) for number in (60, 59, 1, 0, -1)),
    )
    assert not place.has_reports()
    place.write(REPORTS, [rows])
    stored = list(place.read_reports(HOUR))
    assert place.has_reports()
    assert pa.Table.from_batches(stored).equals(pa.Table.from_batches([rows.take([3, 2, 1])]))
    assert not list(place.read_reports(HOUR + 9))


def test_a_copy_is_an_output_of_files(
    place: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.sinks.bigquery.bigquery_store.COPY_ROWS", 2)
    rows = batch(REPORTS, *(report(60 * number) for number in range(5)))
    place.write(REPORTS, [rows])
    assert [row["report_id"] for row in held(place, tmp_path)[REPORTS.name]] == [
        "r0",
        "r60",
        "r120",
        "r180",
        "r240",
    ]
    assert ParquetStore(LocalFolder(tmp_path)).read_description() == DESCRIPTION


def test_tables_are_partitioned_clustered_and_described(place: BigQuery) -> None:
    made = {table: place._client.table(f"{place.dataset}.{table.name}") for table in ALL}
    assert {
        t.name: (m.time_partitioning and m.time_partitioning.field, m.clustering_fields)
        for t, m in made.items()
    } == {
        "kpi_reports": ("recorded_at", ["agent_id"]),
        "kpi_aggregations": ("time_window_start", ["granularity", "agent_id"]),
        "quarantine": ("received_at", ["source"]),
        "duplicates": ("received_at", ["source"]),
        "trimmed": ("received_at", ["source"]),
        "tasks": ("created_at", ["task_id"]),
        "results": ("completed_at", ["task_id"]),
        "agents": (None, ["agent_id"]),
        "system_health": ("received_at", ["source"]),
    }
    assert {m.time_partitioning.type_ for m in made.values() if m.time_partitioning} == {"DAY"}
    assert all(each.description for each in made.values())
    assert all([each.name for each in m.schema] == t.schema.names for t, m in made.items())


def test_an_inbox_is_deleted_after_its_merge_and_expires_by_itself(place: BigQuery) -> None:
    place.write(REPORTS, [batch(REPORTS, report(1))])
    tables = [table.table_id for table in place._client.rest.list_tables(place.dataset)]
    assert not [name for name in tables if name.startswith("_kpiflow_inbox_")]
    days = (new_inbox("p.d", REPORTS).expires - datetime.now(UTC)) / timedelta(days=1)
    assert 1.9 < days < 2


def other(emulator: Emulator, name: str, columns: Sequence[str], kind: str = "STRING") -> BigQuery:
    """A store whose dataset somebody else has begun, with a table."""
    begun = store(f"d{uuid4().hex}", emulator)
    begun._client.rest.create_dataset(begun.dataset)
    fields = [bigquery.SchemaField(each, kind) for each in columns]
    begun._client.rest.create_table(bigquery.Table(f"demo.{begun.dataset}.{name}", fields))
    return begun


def test_missing_columns_are_added_and_others_are_left_alone(emulator: Emulator, tmp_path: Path) -> None:
    begun = other(emulator, "somebody", ["anything"])
    begun.prepare(DESCRIPTION)
    query = begun._client.query
    query(
        f"CREATE OR REPLACE TABLE `{begun.dataset}.duplicates` "
        "(mine STRING, source STRING, message_id STRING)",
        "US",
    )
    begun.prepare(DESCRIPTION)
    rows = batch(
        DUPLICATES,
        {"source": "s", "message_id": "1", "received_at": MIDNIGHT, "report_id": "r", "revision": 1},
    )
    begun.write(DUPLICATES, [rows])
    assert held(begun, tmp_path)[DUPLICATES.name] == rows.to_pylist()
    assert query(f"SELECT mine, report_id FROM `{begun.dataset}.duplicates`", "US") == [(None, "r")]


def test_a_column_of_another_type_is_refused_by_name(emulator: Emulator) -> None:
    begun = store(f"d{uuid4().hex}", emulator)
    begun.prepare(DESCRIPTION)
    begun._client.query(
        f"CREATE OR REPLACE TABLE `{begun.dataset}.quarantine` (source STRING, payload STRING)", "US"
    )
    with pytest.raises(
        Refused,
        match=r"payload of quarantine in bigquery://.* is STRING and should be BYTES; move the table away",
    ):
        begun.prepare(DESCRIPTION)
    assert [(finding.what, "payload of quarantine" in finding.problem) for finding in begun.check()][-1] == (
        "the columns of the tables", True
    )  # fmt: skip


def test_a_dataset_with_tables_of_ours_but_no_description_is_refused(emulator: Emulator) -> None:
    begun = other(emulator, "kpi_reports", ["report_id"])
    with pytest.raises(Refused, match="has kpi_reports but no _kpiflow; name another dataset"):
        begun.prepare(DESCRIPTION)


def test_a_new_place_has_no_description_and_a_described_one_has_its_own(emulator: Emulator) -> None:
    new = store(f"d{uuid4().hex}", emulator)
    assert new.read_description() is None
    for description in (DESCRIPTION, DESCRIPTION | {"layout": 2}):
        new.prepare(description)
        assert new.read_description() == description


@pytest.mark.parametrize("text", ["'no JSON'", "'[]'", "NULL"])
def test_a_damaged_description_is_refused(place: BigQuery, text: str) -> None:
    place._client.query(
        f"CREATE OR REPLACE TABLE `{place.dataset}._kpiflow` AS SELECT {text} AS description", "US"
    )
    with pytest.raises(Refused, match=r"_kpiflow of bigquery://.* is damaged .*restore its one row"):
        place.read_description()


def test_a_dataset_of_another_region_is_refused_by_name(place: BigQuery, emulator: Emulator) -> None:
    elsewhere = store(place.dataset, emulator, "us-east1")
    with pytest.raises(Refused, match="is in EU, not in us-east1; leave location out"):
        elsewhere.prepare(DESCRIPTION)
    assert [bool(finding.problem) for finding in elsewhere.check()] == [True]
    assert store(place.dataset, emulator, "eu").read_description() == DESCRIPTION


def test_the_checks_of_a_sound_place_find_nothing(place: BigQuery, emulator: Emulator) -> None:
    new = store(f"d{uuid4().hex}", emulator)
    assert [finding.problem for each in (place, new) for finding in each.check()] == [""] * 8
    assert new.read_description() is None


def test_a_turn_without_its_row_is_refused_since_it_could_hold_nobody_off(place: BigQuery) -> None:
    place._client.query(f"DELETE FROM `{place.dataset}._kpiflow_turn_kpi_reports` WHERE TRUE", "US")
    with pytest.raises(
        Refused, match="_kpiflow_turn_kpi_reports must have one row; drop it and start the job"
    ):
        place.write(REPORTS, [batch(REPORTS, report(1))])
    assert not place.has_reports()


def test_a_store_is_its_url() -> None:
    text = "bigquery://my-project/My_set?location=EU&endpoint=http://h:1&storage_endpoint=h:2"
    made = BigQuery.from_url(urlsplit(text), 30)
    assert made == BigQuery("my-project", "My_set", "EU", "http://h:1", "h:2", 30)
    assert made.name == text


@pytest.mark.parametrize(
    "text",
    [
        "bigquery://p/d`; DROP TABLE x",
        "bigquery://p/my-set",
        "bigquery://p/",
        "bigquery:///d",
        "bigquery://p/d/e",
        "bigquery://P'/d",
        "bigquery://p/d?token=x",
        "bigquery://p/d#x",
        "bigquery://p/d?location=E'U",
        "bigquery://p/d?endpoint=http://h:1",
        "bigquery://p/d?endpoint=http://u:secret@h:1&storage_endpoint=h:2",
    ],
)
def test_a_wrong_url_is_answered_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is not bigquery://PROJECT/DATASET, with \?location=EU"):
        BigQuery.from_url(urlsplit(text))
