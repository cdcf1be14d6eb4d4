import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count

import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.tables import LOST
from tests.servers import RedisServer
from transforms.core.record_batches import RAW
from transforms.envelopes.envelope_lines import NO_DATA
from transforms.redis.connection import Connection
from transforms.redis.entry_ids import parse_id
from transforms.redis.errors import RedisUnavailable
from transforms.sources.redis.positions import Position
from transforms.sources.redis.reader import ReadEntries, Reader

HOUR_MS = 3_600_000


@pytest.fixture
def reader(server: RedisServer) -> Reader:
    return reader_of(server, "s")


def reader_of(server: RedisServer, *streams: str) -> Reader:
    return Reader(Connection(server.url).client(), "g", streams)


def add(client: redis.Redis, *ids: str, key: str = "s") -> None:
    for entry_id in ids:
        client.xadd(key, {"data": entry_id}, id=entry_id)


def ids(read: ReadEntries) -> list[str]:
    return [entry_id for batch in read.messages for entry_id in batch["message_id"].to_pylist()]


def lost(*reads: ReadEntries) -> list[tuple[str, str, int | None, str]]:
    """(after, first that could be read or `now`, entries, reason) of each loss."""
    rows = [(row, f"{read.now}-0") for read in reads for batch in read.gaps for row in batch.to_pylist()]
    untils = ["now" if row["message_id"] == now else row["message_id"] for row, now in rows]
    return [(row["after"], until, row["entries"], row["reason"]) for (row, _), until in zip(rows, untils)]


def read_all(
    reader: Reader, positions: dict[str, Position], limit: int = 1000
) -> tuple[list[str], list, dict[str, Position]]:
    """Everything to the streams' ends: ids, losses, positions."""
    seen, losses = [], []
    while True:
        read = reader.read(positions, limit, 0)
        positions = read.positions
        seen += ids(read)
        losses += lost(read)
        if read.to_end:
            return seen, losses, positions


def again(positions: dict[str, Position], read: list[str]) -> int:
    """How many of the entries were delivered to the group before the reader began."""
    return sum(parse_id(entry_id) <= parse_id(positions["s"].counted) for entry_id in read)


def test_a_message_is_the_entrys_data_with_its_id_and_time(client, reader):
    client.xadd("s", {"data": b'{"a": "\xff"}'}, id="1500-7")
    client.xadd("s", {"trace": "x", "data": ""}, id="1700000000123-0")
    read = reader.read(reader.offsets.start(0), 10, 0)
    times = [datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC), datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)]
    columns = [["s"] * 2, ["1500-7", "1700000000123-0"], times, [b'{"a": "\xff"}\n', b"\n"]]
    assert read.messages == [
        pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, RAW)], schema=RAW)
    ]
    assert (read.rejected, read.gaps) == ([], [])


def test_an_id_beyond_the_year_9999_has_no_time(client, reader):
    client.xadd("s", {"data": "x"}, id="18446744073709551615-1")
    read = reader.read(reader.offsets.start(0), 10, 0)
    assert (ids(read), read.messages[0]["received_at"].to_pylist()) == (["18446744073709551615-1"], [None])


def test_an_entry_without_data_is_bad_and_its_neighbours_are_not(client, reader):
    add(client, "1-0")
    client.xadd("s", {"x": b"\xff"}, id="2-0")
    add(client, "3-0")
    read = reader.read(reader.offsets.start(0), 10, 0)
    assert ids(read) == ["1-0", "3-0"]
    line = b'{"source":"s","message_id":"2-0","received_at":"1970-01-01T00:00:00.002000Z",'
    line += b'"fields":{"x":"\\udcff"}}\n'
    time = datetime(1970, 1, 1, 0, 0, 0, 2000, UTC)
    row = {"source": "s", "message_id": "2-0", "received_at": time, "payload": line, "message": NO_DATA}
    assert [batch.to_pylist() for batch in read.rejected] == [
        [row | {"payload_bytes": None, "payload_sha256": None}]
    ]


def test_a_read_that_waits_wakes_up_for_whichever_stream_gets_an_entry(client, server):
    reader = reader_of(server, "idle", "busy")
    positions = reader.offsets.start(0)
    assert reader.read(positions, 10, 20).rows == 0
    add(client, "5-0", key="busy")
    read = reader.read(positions, 10, 10_000)
    assert (ids(read), read.messages[0]["source"].to_pylist()) == (["5-0"], ["busy"])


def test_a_stream_with_a_backlog_does_not_keep_the_others_waiting(client, server):
    reader = reader_of(server, "huge", "small")
    add(client, *(f"{n}-0" for n in range(1, 101)), key="huge")
    add(client, "1-0", key="small")
    read = reader.read(reader.offsets.start(0), 10, 0)
    assert [batch.num_rows for batch in read.messages] == [10, 1]


def test_the_watermark_follows_the_slowest_stream_and_at_the_end_the_clock_of_redis(client, server):
    reader = reader_of(server, "slow", "done")
    add(client, "50000-0", "60000-0", "70000-0", key="slow")
    first = reader.read(reader.offsets.start(0), 2, 0)
    second = reader.read(first.positions, 2, 0)
    assert (first.watermark, second.watermark) == (50_000, second.now - 10_000)


def test_an_id_of_the_future_does_not_carry_the_watermark_away(client, reader):
    add(client, "1-0", "99999999999999-0")
    read = reader.read(reader.offsets.start(0), 2, 0)
    assert read.watermark == read.now - 10_000


def test_ids_that_a_clock_that_jumped_ahead_gave_are_counted_and_reported(client, reader, caplog):
    now = int(time.time() * 1000)
    add(client, f"{now}-0", f"{now + 50_000}-0", f"{now + 7_200_000}-0")
    client.xadd("s", {"data": "x"})
    read = reader.read(reader.offsets.start(0), 10, 0)
    client.xadd("s", {"data": "x"})
    again = reader.read(read.positions, 10, 0)
    assert (read.rows, again.rows, read.notices["s"].ahead, again.notices["s"].ahead) == (4, 1, 2, 3)
    assert caplog.text.count("ids of s are 7,200 s ahead of the clock of Redis") == 1


def test_large_entries_are_read_a_few_at_a_time(client, reader):
    with client.pipeline() as pipeline:
        for _ in range(300):
            pipeline.xadd("s", {"data": b"x" * 200_000})
        pipeline.execute()
    first = reader.read(reader.offsets.start(0), 10_000, 0)
    second = reader.read(first.positions, 10_000, 0)
    assert first.rows == 256
    assert second.rows == 300 - 256
    add(client, *(f"{2 * 10**13 + n}-0" for n in range(200)))
    assert reader.read(second.positions, 10_000, 0).rows < 100


def test_a_trim_under_lag_is_told_with_its_count_and_place(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    read = reader.read(reader.offsets.start(0), 2, 0)
    client.xtrim("s", maxlen=3, approximate=False)
    again = reader.read(read.positions, 100, 0)
    row = {
        "source": "s",
        "message_id": "8-0",
        "received_at": datetime(1970, 1, 1, 0, 0, 0, 2000, UTC),
        "after": "2-0",
    }
    rows = [row | {"entries": 5, "reason": "trimmed", "revision": 5}]
    assert again.gaps == [pa.RecordBatch.from_pylist(rows, schema=LOST)]
    assert ids(again) == ["8-0", "9-0", "10-0"]


def test_a_trim_of_what_was_read_is_no_loss(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    _, _, positions = read_all(reader, reader.offsets.start(0))
    client.xtrim("s", maxlen=0, approximate=False)
    add(client, "11-0")
    assert read_all(reader, positions)[:2] == (["11-0"], [])


def test_a_stream_that_is_trimmed_to_nothing_tells_its_loss_at_once(client, reader):
    add(client, "1-0", "2-0", "3-0")
    read = reader.read(reader.offsets.start(0), 1, 0)
    client.xtrim("s", maxlen=0, approximate=False)
    assert read_all(reader, read.positions)[:2] == ([], [("1-0", "3-0", 2, "trimmed")])


def test_what_was_trimmed_before_the_group_began_is_no_loss(client, reader):
    add(client, "1-0", "2-0", "3-0")
    client.xtrim("s", maxlen=1, approximate=False)
    assert read_all(reader, reader.offsets.start(0))[:2] == (["3-0"], [])


def test_entries_deleted_from_the_middle_are_told_once_the_stream_is_read_to_its_end(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    first = reader.read(reader.offsets.start(0), 2, 0)
    client.xdel("s", "4-0", "5-0")
    second = reader.read(first.positions, 3, 0)
    assert (ids(second), lost(second)) == (["3-0", "6-0", "7-0"], [])
    assert read_all(reader, second.positions)[:2] == (["8-0", "9-0", "10-0"], [("7-0", "8-0", 2, "deleted")])


STEPS = ("add", "read", "trim", "delete", "commit", "anew", "foreign read", "foreign move", "destroy")

TURNS = (*STEPS, "add", "read", "copy", "failover", "checkpoint", "restore")

OVERTAKEN = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 6)).map(
    lambda sizes: [
        *[("read", 8), ("checkpoint", 0), ("commit", 0), ("copy", 0), ("add", sizes[0]), ("read", 8)],
        *[("failover", sizes[1]), ("add", sizes[2]), ("read", 8)],
    ]
)
"""A copy takes over that lacks some entries that were read, and gets others before they are looked for."""


def meddle(client: redis.Redis, step: str, size: int) -> None:
    """What somebody else does with the group."""
    if group(client) is None:
        return
    if step == "foreign read":
        client.xreadgroup("g", "somebody", {"s": ">"}, count=size + 1, noack=size % 2 == 0)
    elif step == "foreign move":
        client.xgroup_setid("s", "g", "$" if size % 3 == 0 else f"{size}-0")
    elif step == "destroy":
        client.xgroup_destroy("s", "g")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 12)), max_size=40))
def test_every_entry_is_read_in_order_or_counted_as_lost(server, client, steps):
    """Whatever is added, trimmed, deleted, however often the reader starts anew, and whatever others do with
    its group."""
    client.flushall()
    reader = reader_of(server, "s")
    positions, number, added = reader.offsets.start(0), count(1), []
    seen: dict[str, None] = {}
    losses: list[int] = []
    kept: tuple[dict, int] = ({}, 0)
    for step, size in steps:
        if step == "add":
            added += [f"{next(number)}-0" for _ in range(size)]
            add(client, *added[len(added) - size :])
        elif step == "read":
            read = reader.read(positions, max(1, size), 0)
            new = ids(read)[again(positions, ids(read)) :]
            positions = read.positions
            assert not seen.keys() & set(new)
            seen |= dict.fromkeys(new)
            losses += [entries for _, _, entries, _ in lost(read)]
        elif step == "trim":
            client.xtrim("s", maxlen=size, approximate=False)
        elif step == "delete" and len(added) > size:
            client.xdel("s", added[-1 - size])
        elif step == "commit":
            reader.offsets.commit(positions)
            kept = (dict(seen), sum(losses))
        elif step == "anew":
            positions, seen, losses = reader.offsets.start(0), dict(kept[0]), [kept[1]]
        else:
            meddle(client, step, size)
    more, last, _ = read_all(reader, positions)
    read_in_all = [*seen, *more[again(positions, more) :]]
    assert read_in_all == sorted(set(read_in_all), key=added.index)
    assert sum(losses) + sum(entries for _, _, entries, _ in last) == len(added) - len(read_in_all)


Losses = tuple[tuple[str, str, int | None, str], ...]
Seen = tuple[frozenset[tuple[str, bytes]], Losses]
"""The entries that were read, and what was reported as lost."""


class History:
    """A stream whose primaries fail over to older copies and whose clock goes back, and a reader that must
    miss nothing of it."""

    def __init__(self, client: redis.Redis, reader: Reader) -> None:
        self.client, self.reader = client, reader
        self.clock, self.number = 100, count()
        self.positions = reader.offsets.start(0)
        self.seen: Seen = (frozenset(), ())
        self.saved, self.committed = (self.positions, self.seen), self.seen
        self.removed: frozenset[tuple[str, bytes]] = frozenset()
        self.replica = (Copy(client), self.removed)

    def step(self, name: str, size: int) -> None:
        """A turn: a method of this, or what somebody else does."""
        act = getattr(self, name, None)
        act(size) if act else meddle(self.client, name, size)

    def trim(self, size: int) -> None:
        self.remove(lambda: self.client.xtrim("s", maxlen=size, approximate=False))

    def delete(self, size: int) -> None:
        if held := self.client.xrange("s"):
            self.remove(lambda: self.client.xdel("s", held[-1 - size % len(held)][0]))

    def commit(self, _: int) -> None:
        """Commit what a checkpoint holds."""
        self.reader.offsets.commit(self.saved[0])
        self.committed = self.saved[1]

    def checkpoint(self, _: int) -> None:
        self.saved = (self.positions, self.seen)

    def restore(self, _: int) -> None:
        self.positions, self.seen = self.saved

    def anew(self, _: int) -> None:
        self.saved = (self.reader.offsets.start(0), self.committed)
        self.positions, self.seen = self.saved

    def copy(self, _: int) -> None:
        self.replica = (Copy(self.client), self.removed)

    def failover(self, behind: int) -> None:
        self.replica[0].take_over(self.client)
        self.removed = self.replica[1]
        self.clock -= 3 * behind

    def add(self, number: int) -> None:
        for _ in range(number):
            self.clock += 1
            millis, sequence = parse_id(self.client.xinfo_stream("s")["last-generated-id"])
            entry_id = max((self.clock, 0), (millis, sequence + 1))
            self.client.xadd("s", {"data": f"entry {next(self.number)}"}, id="{}-{}".format(*entry_id))

    def held(self) -> frozenset[tuple[str, bytes]]:
        return frozenset((entry_id.decode(), fields[b"data"]) for entry_id, fields in self.client.xrange("s"))

    def remove(self, act: Callable[[], object]) -> None:
        before = self.held()
        act()
        self.removed |= before - self.held()

    def read(self, limit: int) -> ReadEntries:
        read = self.reader.read(self.positions, max(1, limit), 0)
        self.positions = read.positions
        new = {
            (row["message_id"], row["payload"][:-1]) for batch in read.messages for row in batch.to_pylist()
        }
        self.seen = (self.seen[0] | new, (*self.seen[1], *lost(read)))
        return read


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(TURNS), st.integers(0, 8)).map(lambda turn: [turn]) | OVERTAKEN, max_size=25
    )
)
def test_whatever_a_stream_goes_back_to_all_that_it_holds_is_read_and_the_rest_is_counted(
    server, client, steps
):
    """Failovers to older copies with clocks behind, foreign consumers, trims, deletions, restored
    checkpoints, fresh starts."""
    client.flushall()
    history = History(client, reader_of(server, "s"))
    for name, size in chain.from_iterable(steps):
        history.step(name, size)
    for _ in range(200):
        if history.read(50).to_end:
            break
    else:
        raise AssertionError("it never comes to the end")
    seen, losses = history.seen
    assert all(any(is_lost(entry_id, loss) for loss in losses) for entry_id, _ in history.held() - seen)
    sizes = [entries for _, _, entries, _ in losses]
    assert None in sizes or sum(sizes) >= len((history.removed | history.held()) - seen)


def is_lost(entry_id: str, loss: tuple[str, str, int | None, str]) -> bool:
    """Whether an entry had been trimmed or deleted unread, and came back with an older copy."""
    after, until, entries, reason = loss
    return reason != "reset" and bool(entries) and parse_id(after) < parse_id(entry_id) <= parse_id(until)


def group(client: redis.Redis, key: str = "s") -> tuple[str, int | None] | None:
    """Where the group is: last delivered id, and entries read."""
    found = [each for each in client.xinfo_groups(key) if each["name"] == b"g"]
    return (found[0]["last-delivered-id"].decode(), found[0]["entries-read"]) if found else None


def test_a_deleted_stream_tells_what_was_unread_and_is_begun_again(client, reader):
    add(client, "5-0", "6-0", "7-0")
    read = reader.read(reader.offsets.start(0), 1, 0)
    client.delete("s")
    gone = reader.read(read.positions, 10, 0)
    add(client, "1-0", "2-0")
    assert (lost(gone), group(client)) == ([("5-0", "5-0", 2, "deleted")], ("0-0", 0))
    assert read_all(reader, gone.positions)[:2] == (["1-0", "2-0"], [])


@pytest.mark.parametrize(
    "new", [("1-0", "2-0"), ("8-0", "9-0"), ("6-0", "7-1", "8-0", "9-0")], ids=["older", "newer", "more"]
)
def test_a_stream_that_was_deleted_and_made_again_is_read_from_its_beginning(client, reader, new):
    add(client, "5-0", "6-0", "7-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    client.delete("s")
    add(client, *new)
    assert read_all(reader, positions)[:2] == (list(new), [("7-0", new[0], 0, "deleted")])
    assert group(client) == ("0-0", 0)


def test_a_stream_that_was_made_again_with_a_copy_of_the_last_entry_is_read_from_its_beginning(
    client, reader
):
    add(client, "5-0", "6-0", "7-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    client.delete("s")
    add(client, "6-0", "7-0", "8-0", "9-0")
    seen, losses, after = read_all(reader, positions)
    assert (seen, losses, after["s"].index) == (
        ["6-0", "7-0", "8-0", "9-0"],
        [("0-0", "now", None, "reset")],
        4,
    )


def test_a_group_moves_to_the_new_stream_although_that_is_backwards(client, reader):
    add(client, "5-0", "6-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    client.delete("s")
    add(client, "1-0")
    _, _, new = read_all(reader, positions)
    reader.offsets.commit(positions)
    assert group(client) == ("0-0", 0)
    reader.offsets.commit(new)
    assert group(client) == ("1-0", 1)


class Copy:
    """What a Redis holds, as its replica or its backup has it."""

    def __init__(self, client: redis.Redis) -> None:
        self.keys = {key: client.dump(key) for key in client.scan_iter()}

    def take_over(self, client: redis.Redis) -> None:
        client.flushall()
        for key, value in self.keys.items():
            client.restore(key, 0, value)


def test_entries_that_redis_forgot_in_a_crash_are_read_again_from_what_is_committed(client, reader):
    add(client, "1-0", "2-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    copy = Copy(client)
    add(client, "3-0", "4-0")
    _, _, positions = read_all(reader, positions)
    copy.take_over(client)
    assert read_all(reader, positions)[:2] == ([], [("2-0", "now", None, "reset")])
    add(client, "5-0", "6-0")
    assert read_all(reader, positions)[:2] == (["5-0", "6-0"], [("2-0", "now", None, "reset")])


@pytest.mark.parametrize(
    "later", [(), ("60-0", "70-0"), ("60-0", "70-0", "80-0")], ids=["behind", "as many", "more"]
)
def test_entries_that_a_new_primary_adds_below_the_position_are_read(client, reader, later):
    add(client, "10-0", "20-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    copy = Copy(client)
    add(client, "30-0", "40-0", "50-0")
    _, _, positions = read_all(reader, positions)
    copy.take_over(client)
    add(client, "35-0", "36-0", *later)
    seen, losses, after = read_all(reader, positions)
    assert (seen, losses) == (["35-0", "36-0", *later], [("20-0", "now", None, "reset")])
    assert (after["s"].index, reader.read(after, 1, 0).notices["s"].went_back) == (4 + len(later), 1)


def test_an_entry_with_the_id_of_the_position_is_told_from_the_one_that_was_read(client, reader):
    add(client, "10-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    copy = Copy(client)
    add(client, "30-0", "40-0")
    _, _, positions = read_all(reader, positions)
    copy.take_over(client)
    client.xadd("s", {"data": "other"}, id="35-0")
    client.xadd("s", {"data": "other"}, id="40-0")
    assert read_all(reader, positions)[0] == ["35-0", "40-0"]


def test_a_commit_of_before_a_failover_does_not_move_the_group(client, reader):
    add(client, "10-0")
    _, _, old = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(old)
    copy = Copy(client)
    add(client, "30-0", "40-0")
    _, _, old = read_all(reader, old)
    copy.take_over(client)
    add(client, "35-0", "45-0", "46-0")
    reader.offsets.commit(old)
    assert group(client) == ("10-0", 1)


def test_a_stream_that_was_restored_without_its_committed_place_is_read_from_its_beginning(client, reader):
    add(client, "10-0", "20-0")
    read = reader.read(reader.offsets.start(0), 1, 0)
    reader.offsets.commit(read.positions)
    old = client.dump("s")
    add(client, "30-0")
    _, _, positions = read_all(reader, read.positions)
    reader.offsets.commit(positions)
    client.restore("s", 0, old, replace=True)
    add(client, "25-0")
    seen, losses, positions = read_all(reader, positions)
    assert (seen, losses, positions["s"].index) == (
        ["10-0", "20-0", "25-0"],
        [("0-0", "now", None, "reset")],
        3,
    )
    reader.offsets.commit(positions)
    assert (group(client), reader.offsets.start(0)["s"].counted) == (("25-0", 3), "25-0")


def test_a_stream_that_went_back_is_found_again_after_a_kill_as_it_was_found_first(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 101)))
    client.xtrim("s", maxlen=50, approximate=False)
    reader.offsets.start(0)
    old = client.dump("s")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    add(client, "101-0")
    _, _, positions = read_all(reader, positions)
    reader.offsets.commit(positions)
    client.restore("s", 0, old, replace=True)
    outcomes = [read_all(reader, positions)[:2] for _ in range(3)]
    assert outcomes == [([f"{n}-0" for n in range(51, 101)], [("0-0", "now", None, "reset")])] * 3


def test_a_failover_before_the_first_commit_is_no_deleted_stream(client, reader):
    add(client, "10-0", "20-0", "30-0")
    client.xtrim("s", maxlen=2, approximate=False)
    positions = reader.offsets.start(0)
    copy = Copy(client)
    add(client, "40-0", "50-0")
    _, _, positions = read_all(reader, positions)
    copy.take_over(client)
    add(client, "35-0")
    assert [read_all(reader, positions)[:2] for _ in range(2)] == [
        (["20-0", "30-0", "35-0"], [("0-0", "now", None, "reset")])
    ] * 2


def test_a_failover_after_the_group_was_destroyed_is_no_deleted_stream(client, reader):
    add(client, "10-0", "20-0")
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    client.xgroup_destroy("s", "g")
    copy = Copy(client)
    add(client, "30-0", "40-0")
    _, _, positions = read_all(reader, positions)
    copy.take_over(client)
    add(client, "35-0")
    seen, losses, after = read_all(reader, positions)
    assert (seen, losses) == (["35-0"], [("20-0", "now", None, "reset")])
    reader.offsets.commit(after)
    assert group(client) == ("35-0", 3)


def test_a_reset_covers_what_was_read_after_the_place_that_a_start_goes_by(client, reader):
    client.xadd("s", {"data": "x"})
    _, _, positions = read_all(reader, reader.offsets.start(0))
    reader.offsets.commit(positions)
    later = client.xadd("s", {"data": "read, and written, and not committed"}).decode()
    ahead = f"{int(time.time() * 1000) + HOUR_MS}-0"
    old = Position(positions["s"].last, 1, ahead, 9)
    for before, until in ((replace(positions["s"], added=9), None), (old, ahead)):
        (row,) = reader.read({"s": before}, 10, 0).gaps[0].to_pylist()
        assert parse_id(row["message_id"]) >= parse_id(until or later)


def test_a_fresh_start_reads_what_a_foreign_consumer_read(client, reader):
    reader.offsets.start(0)
    add(client, "1-0", "2-0", "3-0", "4-0")
    client.xreadgroup("g", "somebody", {"s": ">"}, noack=True)
    assert read_all(reader, reader.offsets.start(0))[:2] == (["1-0", "2-0", "3-0", "4-0"], [])


@pytest.mark.parametrize("moved", ["4-0", "$", "999-0", "0-0", None])
def test_a_fresh_start_begins_where_reading_was_committed_wherever_the_group_is(client, reader, moved):
    add(client, "1-0", "2-0", "3-0", "4-0", "5-0")
    reader.offsets.commit(reader.read(reader.offsets.start(0), 2, 0).positions)
    if moved is None:
        client.xgroup_destroy("s", "g")
    else:
        client.xgroup_setid("s", "g", moved)
    positions = reader.offsets.start(0)
    seen, losses, after = read_all(reader, positions)
    assert seen[again(positions, seen) :] == ["3-0", "4-0", "5-0"]
    assert (losses, after["s"].index) == ([], 5)


def test_a_group_that_another_client_moved_is_noticed_and_moved_back(client, reader, caplog):
    add(client, "1-0", "2-0", "3-0")
    first = reader.read(reader.offsets.start(0), 1, 0)
    reader.offsets.commit(first.positions)
    client.xreadgroup("g", "somebody", {"s": ">"}, noack=True)
    second = reader.read(first.positions, 1, 0)
    reader.offsets.commit(second.positions)
    assert (group(client), reader.read(second.positions, 1, 0).notices["s"].moved) == (("2-0", 2), 1)
    assert "another client moved the group g of s to 3-0" in caplog.text


def test_a_fresh_start_notices_a_group_that_another_client_moved_and_moves_it_back(client, reader):
    add(client, "1-0", "2-0", "3-0")
    reader.offsets.commit(reader.read(reader.offsets.start(0), 1, 0).positions)
    client.xgroup_setid("s", "g", "$")
    read = reader.read(reader.offsets.start(0), 10, 0)
    assert (group(client), read.notices["s"].moved) == (("1-0", 1), 1)
    reader.offsets.commit(read.positions)
    assert reader.read(read.positions, 10, 0).notices["s"].moved == 1


def test_a_commit_that_is_cut_off_is_not_taken_for_another_clients_move(client, reader, monkeypatch):
    add(client, "1-0", "2-0", "3-0")
    read = reader.read(reader.offsets.start(0), 1, 0)
    for part in ("keep_committed", "move"):
        with monkeypatch.context() as cut:
            cut.setattr(reader.group, part, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                reader.offsets.commit(read.positions)
        read = reader.read(reader.offsets.start(0), 2, 0)
        assert read.notices["s"].moved == 0
    reader.offsets.commit(read.positions)
    assert reader.read(read.positions, 1, 0).notices["s"].moved == 0


def test_a_destroyed_group_is_made_again_at_the_position(client, reader):
    add(client, "1-0", "2-0", "3-0")
    read = reader.read(reader.offsets.start(0), 2, 0)
    client.xgroup_destroy("s", "g")
    again = reader.read(read.positions, 10, 0)
    reader.offsets.commit(again.positions)
    assert (ids(again), lost(again), group(client)) == (["3-0"], [], ("3-0", 3))


def test_a_key_that_holds_something_else_is_named(client, server):
    client.rpush("list", "x")
    reader = reader_of(server, "s", "list")
    with pytest.raises(RedisUnavailable, match="'list' holds a list, not a stream"):
        reader.offsets.start(0)
    with pytest.raises(RedisUnavailable, match="'list' holds a list, not a stream"):
        reader.read({"s": Position(), "list": Position()}, 10, 0)


def test_a_commit_never_moves_a_group_back(client, reader):
    add(client, "1-0", "2-0", "3-0")
    first = reader.read(reader.offsets.start(0), 1, 0)
    second = reader.read(first.positions, 1, 0)
    reader.offsets.commit(second.positions)
    reader.offsets.commit(first.positions)
    assert group(client) == ("2-0", 2)


def test_a_group_counts_its_lag_from_what_is_committed(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    reader.offsets.commit(reader.read(reader.offsets.start(0), 4, 0).positions)
    assert [(each["lag"], each["pending"]) for each in client.xinfo_groups("s")] == [(6, 0)]


def test_a_used_group_begins_some_time_before_its_place(client, reader):
    times = [HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS]
    add(client, *(f"{time}-0" for time in times))
    reader.offsets.commit(reader.read(reader.offsets.start(0), 3, 0).positions)
    assert [
        read_all(reader, reader.offsets.start(reread))[0] for reread in (0, HOUR_MS, HOUR_MS + 1, 9 * HOUR_MS)
    ] == [[f"{time}-0" for time in times[first:]] for first in (2, 1, 1, 0)]


def test_a_used_group_begins_before_its_oldest_pending_entry(client, reader):
    add(client, "1000-0", "2000-0", "3000-0", "4000-0")
    client.xgroup_create("s", "g", "0")
    client.xreadgroup("g", "someone", {"s": ">"}, count=3)
    client.xack("s", "g", "1000-0")
    assert read_all(reader, reader.offsets.start(0))[:2] == (["2000-0", "3000-0", "4000-0"], [])


def test_a_start_on_a_used_group_counts_as_lost_only_what_was_not_delivered(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    reader.offsets.commit(reader.read(reader.offsets.start(0), 4, 0).positions)
    client.xtrim("s", maxlen=3, approximate=False)
    assert read_all(reader, reader.offsets.start(HOUR_MS))[:2] == (
        ["8-0", "9-0", "10-0"],
        [("4-0", "8-0", 3, "trimmed")],
    )


def test_a_group_whose_count_is_unknown_tells_a_loss_without_a_number(client, reader):
    add(client, *(f"{n}-0" for n in range(1, 11)))
    client.xgroup_create("s", "g", "4-0")
    client.xtrim("s", maxlen=3, approximate=False)
    seen, losses, positions = read_all(reader, reader.offsets.start(0))
    assert (seen, losses) == (["8-0", "9-0", "10-0"], [("4-0", "8-0", None, "trimmed")])
    assert positions["s"].index == 10


def test_foreign_consumers_of_the_group_take_nothing(client, reader):
    positions = reader.offsets.start(0)
    seen: list[str] = []
    for number in range(500):
        add(client, f"{number + 1}-0")
        client.xreadgroup("g", f"stranger-{number}", {"s": ">"})
        if number % 100 == 50:
            read = reader.read(positions, 1000, 0)
            seen, positions = seen + ids(read), read.positions
    assert seen + read_all(reader, positions)[0] == [f"{number + 1}-0" for number in range(500)]
