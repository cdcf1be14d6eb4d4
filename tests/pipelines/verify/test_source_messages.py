"""The messages that streams hold, or held: what an output is compared with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import redis

from pipelines.verify.source_messages import read_gaps, read_messages
from schemas.tables import DUPLICATES, QUARANTINED
from tests.servers import RedisServer
from transforms.core.record_batches import conform
from transforms.redis.connection import Connection
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sources.redis.redis_source import RedisStreams
from transforms.storage.local_folder import LocalFolder


@pytest.fixture
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server, server.client() as client:
        yield client


def add(client: redis.Redis, *numbers: int) -> None:
    for number in numbers:
        client.xadd("s", {"data": "x"}, id=f"{number}-5")


def store(output: Path, *ids: str, source: str = "s") -> None:
    """Rows of quarantine and of duplicates for messages with these ids."""
    for table, part in ((QUARANTINED, ids[::2]), (DUPLICATES, ids[1::2])):
        rows = [{"source": source, "message_id": each, "revision": 1} for each in part]
        batches = [conform(pa.RecordBatch.from_pylist(rows), table.schema)] if rows else []
        ParquetStore(LocalFolder(output), 10).write(table, batches)


def held(client: redis.Redis, output: Path, during: Callable[[], object] = lambda: None) -> list[str]:
    """The ids of the stream's messages; something happens once while they are read."""
    once = [during]
    host = client.get_connection_kwargs()
    source = RedisStreams(Connection(f"redis://localhost:{host['port']}/0"), ("s",), "g")
    with source.snapshot(read_gaps(output)) as snapshot:
        found = read_messages(snapshot, output, lambda _: once.pop()() if once else None, lambda *_: None)
        return sorted({each for rows in found for each in rows["message_id"].to_pylist()})


def test_what_a_stream_holds_is_its_source(client: redis.Redis, tmp_path: Path) -> None:
    add(client, 1, 2, 3)
    store(tmp_path, "2-4", "2-6", "9-0", "no id", "99999999999999999999999-1")
    assert held(client, tmp_path) == ["1-5", "2-5", "3-5"]


def test_stored_messages_older_than_its_first_entry_are_part_of_it(
    client: redis.Redis, tmp_path: Path
) -> None:
    add(client, 1, 2, 3, 4)
    client.xtrim("s", maxlen=2, approximate=False)
    store(tmp_path, "1-5", "2-5", "3-4", "3-6", "4-6")
    assert held(client, tmp_path) == ["1-5", "2-5", "3-4", "3-5", "4-5"]
    store(tmp_path, "2-6", source="t")
    assert "2-6" not in held(client, tmp_path)


def test_stored_messages_up_to_the_newest_deleted_entry_are_part_of_it(
    client: redis.Redis, tmp_path: Path
) -> None:
    add(client, 1, 2, 3, 4)
    client.xdel("s", "3-5")
    store(tmp_path, "3-5", "3-6")
    assert held(client, tmp_path) == ["1-5", "2-5", "3-5", "4-5"]


def test_all_that_an_emptied_stream_ever_had_is_part_of_it_and_nothing_newer(
    client: redis.Redis, tmp_path: Path
) -> None:
    add(client, 1, 2)
    client.xtrim("s", maxlen=0, approximate=False)
    store(tmp_path, "1-5", "2-5", "2-6")
    assert held(client, tmp_path) == ["1-5", "2-5"]


def test_entries_that_come_in_meanwhile_need_no_fate_but_may_have_one(
    client: redis.Redis, tmp_path: Path
) -> None:
    add(client, 1, 2)
    store(tmp_path, "3-5", "5-5")
    assert held(client, tmp_path, during=lambda: add(client, 3, 4)) == ["1-5", "2-5", "3-5"]


def test_entries_that_are_trimmed_meanwhile_keep_their_fate(client: redis.Redis, tmp_path: Path) -> None:
    add(client, *range(1, 601))
    store(tmp_path, *(f"{number}-5" for number in range(1, 601)))
    found = held(client, tmp_path, during=lambda: client.xtrim("s", maxlen=1, approximate=False))
    assert found == sorted(f"{number}-5" for number in range(1, 601))
