"""What a stream holds, read from one id to another."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.servers import RedisServer
from transforms.sources.redis.group import Group
from transforms.sources.redis.positions import Position, Stream
from transforms.sources.redis.snapshot import read_entries
from transforms.sources.redis.stream_state import read_stream


@pytest.fixture
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    with RedisServer(tmp_path) as server, server.client() as client:
        yield client


def test_all_entries_come_in_order_with_every_field_as_it_is(client: redis.Redis) -> None:
    for number in range(1, 3000):
        client.xadd("s", {"data": number, b"\xff": b""}, id=f"{number // 3}-{number}")
    chunks = list(read_entries(client, "s", "999-2999"))
    assert [entry for chunk in chunks for entry in chunk] == [
        [b"%d-%d" % (number // 3, number), [b"data", b"%d" % number, b"\xff", b""]]
        for number in range(1, 3000)
    ]
    assert len(chunks) > 1


def test_only_what_lies_after_one_id_and_up_to_another_is_read(client: redis.Redis) -> None:
    for number in range(1, 9):
        client.xadd("s", {"data": "x"}, id=f"{number}-0")
    assert [entry_id for chunk in read_entries(client, "s", "6-0", after="3-0") for entry_id, _ in chunk] == [
        b"4-0",
        b"5-0",
        b"6-0",
    ]
    assert list(read_entries(client, "s", "6-0", after="6-0")) == []
    assert list(read_entries(client, "gone", "6-0")) == []


def test_large_entries_are_read_few_at_a_time(client: redis.Redis) -> None:
    for number in range(1, 1001):
        client.xadd("s", {"data": b"x" * 100_000}, id=f"{number}-0")
    sizes = [len(chunk) for chunk in read_entries(client, "s", "1000-0")]
    assert (sum(sizes), sizes[0], max(sizes[1:])) == (1000, 256, 83)


def test_what_a_stream_holds_is_told_after_trims_and_deletions(client: redis.Redis) -> None:
    assert read_stream(client, "s") is None
    for number in range(1, 6):
        client.xadd("s", {"data": "x"}, id=f"{number}-0")
    client.xdel("s", "3-0")
    client.xtrim("s", maxlen=3, approximate=False)
    assert read_stream(client, "s") == Stream(5, 3, "2-0", "5-0", "3-0")
    client.xtrim("s", maxlen=0, approximate=False)
    assert read_stream(client, "s") == Stream(5, 0, None, "5-0", "3-0")


def test_what_is_committed_is_what_the_reader_kept_wherever_others_have_moved_the_group(
    client: redis.Redis,
) -> None:
    for number in range(1, 6):
        client.xadd("s", {"data": "x"}, id=f"{number}-0")
    assert Group(client, "g").last_committed("s") is None
    client.xgroup_create("s", "g", "2-0")
    assert Group(client, "g").last_committed("s") == "2-0"
    Group(client, "g").keep_committed("s", Position("3-0", 3, "3-0", 5))
    for moved in ("5-0", "0-0"):
        client.xgroup_setid("s", "g", moved)
        assert Group(client, "g").last_committed("s") == "3-0"
    client.xgroup_destroy("s", "g")
    assert Group(client, "g").last_committed("s") == "3-0"
