import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import apache_beam as beam
import pytest
import redis
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from schemas.readers.verdicts import MessageLimits
from tests.servers import RedisServer
from transforms.redis.connection import Connection
from transforms.sinks.archive.archive_files import REFUSED
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.stream_archive import StreamArchive
from transforms.sources.redis import read_streams
from transforms.sources.redis.checkpointed_positions import PositionsProvider, PositionsTracker
from transforms.sources.redis.entries import digest_entry
from transforms.sources.redis.lease import RedisLease
from transforms.sources.redis.positions import Position
from transforms.sources.redis.read_streams import AsDicts, ReadFromRedisStreams, as_dicts
from transforms.sources.redis.reader import ReadEntries
from transforms.sources.redis.session import Session, read_session
from transforms.sources.source import AHEAD_SECONDS, GroupTaken, Reading
from transforms.validation.quarantine_rows import quarantine_misfits

BRIEF = Session(read_ms=20, idle_ms=20, count=4)
PROVIDER = PositionsProvider()


@pytest.fixture(autouse=True)
def closed() -> None:
    """No reader of an earlier test is open."""
    read_streams._open_reader.cache_clear()


class Runner:
    """Drives the reading DoFn as a runner does: a session at a time, positions through their coder, callbacks
    on demand."""

    def __init__(
        self, server: RedisServer, *streams: str, ahead_seconds: float = AHEAD_SECONDS, **reading
    ) -> None:
        options = ReadFromRedisStreams(
            Connection(server.url),
            streams or ("s",),
            "g",
            session=BRIEF,
            ahead_seconds=ahead_seconds,
            reading=Reading(**reading),
        ).options
        self.read, self.element = read_streams._ReadStreams(options), (0, streams or ("s",))
        self.restriction = PROVIDER.initial_restriction(self.element)
        self.watermark: Timestamp | None = None
        self.finalizer = beam.DoFn.BundleFinalizerParam()

    def session(self) -> list:
        coder = PROVIDER.restriction_coder()
        tracker = ThreadsafeRestrictionTracker(
            PROVIDER.create_tracker(coder.decode(coder.encode(self.restriction)))
        )
        estimator = ManualWatermarkEstimator(self.watermark)
        out = list(
            self.read.process(self.element, self.finalizer, RestrictionTrackerView(tracker), estimator)
        )
        self.restriction, delay = tracker.deferred_status()
        assert (tracker.check_done(), tracker.is_bounded(), delay <= 0) == (True, False, True)
        self.watermark = estimator.get_estimator_state()
        return out

    def checkpoint(self) -> None:
        self.finalizer.finalize_bundle()
        self.finalizer.reset()


def ids(outputs: list) -> list[str]:
    return [
        name
        for each in outputs
        if isinstance(each, TimestampedValue)
        for name in each.value["message_id"].to_pylist()
    ]


def add(client: redis.Redis, *ids: str, key: str = "s") -> None:
    for entry_id in ids:
        client.xadd(key, {"data": entry_id}, id=entry_id)


def test_each_session_goes_on_where_the_last_one_ended(client, server):
    runner = Runner(server)
    add(client, *(f"{n}-0" for n in range(1, 6)))
    assert ids(runner.session()) == [f"{n}-0" for n in range(1, 6)]
    assert ids(runner.session()) == []
    add(client, "6-0")
    assert ids(runner.session()) == ["6-0"]
    assert runner.restriction == {
        "s": Position("6-0", 6, "6-0", 6, digest_entry((b"6-0", [b"data", b"6-0"])))
    }


def test_every_kind_of_output_has_its_tag_and_the_time_of_its_first_row(client, server):
    runner = Runner(server)
    runner.session()
    add(client, *(f"{n}000-0" for n in range(1, 7)))
    client.xadd("s", {"no": "data"}, id="7000-0")
    client.xtrim("s", maxlen=2, approximate=False)
    outputs = runner.session()
    found = {getattr(each, "tag", "messages"): each for each in outputs}
    assert list(found) == ["messages", "rejected", "gaps"]
    stamps = {tag: (each.value if tag != "messages" else each).timestamp for tag, each in found.items()}
    assert stamps | {"gaps": None} == {"messages": Timestamp(6), "rejected": Timestamp(7), "gaps": None}
    assert found["gaps"].value.value["entries"].to_pylist() == [5]


def test_the_watermark_never_goes_back(client, server):
    runner = Runner(server)
    runner.session()
    reached = runner.watermark
    client.delete("s")
    add(client, "1-0", "2-0", "3-0", "4-0", "5-0")
    runner.session()
    assert reached is not None
    assert runner.watermark >= reached


def test_the_group_follows_two_rounds_behind_the_checkpoints(client, server):
    runner = Runner(server)
    places = []
    for number in range(1, 5):
        add(client, f"{number}-0")
        runner.session()
        runner.checkpoint()
        places.append(client.xinfo_groups("s")[0]["last-delivered-id"])
    assert places == [b"0-0", b"0-0", b"1-0", b"2-0"]


def test_a_restored_checkpoint_reads_again_what_came_after_it_and_the_group_is_not_ahead_of_it(
    client, server
):
    runner = Runner(server)
    add(client, "1-0")
    runner.session()
    kept = runner.restriction
    add(client, "2-0")
    runner.session()
    runner.checkpoint()
    runner.restriction = kept
    assert ids(runner.session()) == ["2-0"]
    runner.checkpoint()
    assert client.xinfo_groups("s")[0]["last-delivered-id"] == b"0-0"


class Archived(Runner):
    """A reader beside an archive, which takes a session's messages and entries without data before the bundle
    ends."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        super().__init__(server, archive=StreamArchive(folder))
        self.folder = folder

    def session(self) -> list:
        outputs = super().session()
        for each in outputs:
            if isinstance(each, TimestampedValue):
                ArchiveWriter(self.folder).append(each.value)
            elif each.tag == "rejected":
                ArchiveWriter(self.folder).append(
                    quarantine_misfits(each.value.value, MessageLimits()), REFUSED
                )
        return outputs

    def restart(self, kept: dict[str, Position]) -> None:
        """Another process goes on from a checkpoint."""
        read_streams._open_reader.cache_clear()
        self.restriction = kept

    def lines(self) -> set[str]:
        """The ids in the archive."""
        return {
            json.loads(line)["message_id"]
            for path in self.folder.rglob("*.ndjson")
            for line in path.read_bytes().splitlines()
        }


def written(client: redis.Redis, runner: Archived, numbers: range, checkpoints: bool = True) -> None:
    """Entries that are read and archived one by one, every fifth of them without data, with a checkpoint
    after each."""
    for number in numbers:
        client.xadd("s", {"data" if number % 5 else "none": str(number)}, id=f"{number}-0")
        runner.session()
        if checkpoints:
            runner.checkpoint()


def test_nothing_is_committed_that_the_archive_has_not_on_disk(
    client, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = Archived(server, tmp_path)
    written(client, runner, range(1, 3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: exec("raise OSError('no disk')"))
        for number in range(3, 6):
            with suppress(OSError):
                written(client, runner, range(number, number + 1))
    assert client.xinfo_groups("s")[0]["last-delivered-id"] == b"0-0"
    written(client, runner, range(6, 9))
    assert client.xinfo_groups("s")[0]["last-delivered-id"] == b"6-0"


def test_a_restart_goes_on_where_the_checkpoint_was_if_the_archive_has_all_of_it(
    client, server, tmp_path: Path
):
    runner = Archived(server, tmp_path)
    written(client, runner, range(1, 8))
    runner.restart(runner.restriction)
    add(client, "8-0")
    assert ids(runner.session()) == ["8-0"]


def test_entries_that_left_the_stream_before_they_could_be_archived_again_are_reported(
    client, server, tmp_path: Path, caplog
):
    runner = Archived(server, tmp_path)
    written(client, runner, range(1, 9))
    shutil.rmtree(tmp_path)
    client.xtrim("s", minid="8-0", approximate=False)
    runner.restart(runner.restriction)
    assert [ids(runner.session()), "up to 1 entry of s after 6-0" in caplog.text] == [["8-0"], True]


@pytest.mark.parametrize("seed", range(15))
def test_what_an_archive_lost_after_the_committed_place_is_archived_again(
    client, server, tmp_path: Path, seed: int
):
    """A power cut takes what was not synced yet: the ends of files, or whole ones; and people move and
    compress older files."""
    lot = random.Random(seed)
    runner = Archived(server, tmp_path)
    written(client, runner, range(1, lot.randrange(4, 14)))
    kept = runner.restriction
    written(client, runner, range(14, 14 + lot.randrange(6)), checkpoints=False)
    place = int(client.xinfo_groups("s")[0]["last-delivered-id"].partition(b"-")[0])
    paths = list(tmp_path.rglob("*.ndjson"))
    for path in lot.sample(paths, lot.randrange(len(paths) + 1)):
        octets, synced = path.read_bytes(), synced_bytes(path, place)
        cut, end = sorted(lot.choices(range(synced, len(octets) + 1), k=2))
        match lot.choice(("torn", "zeros", "gone", "moved")):
            case "torn":
                path.write_bytes(octets[:cut])
            case "zeros":
                path.write_bytes(octets[:cut] + bytes(end - cut) + octets[end:])
            case "gone":
                path.unlink() if not synced else path.write_bytes(octets[:synced])
            case "moved":
                path.rename(path.with_suffix(".gz"))
        started_anew(tmp_path)
    runner.restart(kept)
    for _ in range(6):
        runner.session()
    assert {int(each.partition("-")[0]) for each in runner.lines()} >= {n for n in known(client) if n > place}
    assert runner.restriction["s"].index == len(known(client))


def started_anew(folder: Path) -> None:
    """The machine was started since, or is another one; its clock says nothing."""
    for path in folder.rglob("_boot"):
        path.write_text("another")
    for path in folder.rglob("*.ndjson"):
        os.utime(path, (2**31, 2**31))


def test_another_machine_reads_again_what_any_file_of_the_archive_may_lack(client, server, tmp_path: Path):
    runner = Archived(server, tmp_path)
    written(client, runner, range(1, 5))
    written(client, runner, range(6, 9), checkpoints=False)
    written(client, runner, range(10, 12), checkpoints=False)
    kept = runner.restriction
    (refused,) = tmp_path.rglob("*.refused.ndjson")
    refused.unlink()
    started_anew(tmp_path)
    runner.restart(kept)
    for batch in [each.value for each in Runner.session(runner) if isinstance(each, TimestampedValue)]:
        ArchiveWriter(tmp_path).append(batch)  # and it dies before the others are archived
    runner.restart(kept)
    runner.session()
    assert "10-0" in runner.lines()
    for number in range(12, 16):
        written(client, runner, range(number, number + 1))
    runner.restart(runner.restriction)
    add(client, "20-0")
    assert ids(runner.session()) == ["20-0"]


def synced_bytes(path: Path, place: int) -> int:
    """How much of a file was synced when the group came to its place."""
    lines = path.read_bytes().splitlines(keepends=True)
    return sum(len(line) for line in lines if int(json.loads(line)["message_id"].partition("-")[0]) <= place)


def known(client: redis.Redis) -> list[int]:
    return [int(entry_id.partition(b"-")[0]) for entry_id, _ in client.xrange("s")]


def test_after_a_split_nothing_more_is_read_and_the_rest_begins_at_the_position():
    tracker = PositionsTracker({"s": Position("1-0", 1, "1-0", 1)})
    assert tracker.try_claim({"s": Position("2-0", 2, "2-0", 2)})
    assert tracker.try_split(0.5) is None
    _, rest = tracker.try_split(0)
    assert not tracker.try_claim({"s": Position("3-0", 3, "3-0", 3)})
    assert tracker.current_restriction() == rest == {"s": Position("2-0", 2, "2-0", 2)}
    assert tracker.try_split(0) is None


def test_what_is_read_after_a_split_is_left_to_the_rest(client, server):
    runner = Runner(server)
    add(client, *(f"{n}-0" for n in range(1, 10)))
    tracker = ThreadsafeRestrictionTracker(PROVIDER.create_tracker({}))
    reading = runner.read.process(
        runner.element, runner.finalizer, RestrictionTrackerView(tracker), ManualWatermarkEstimator(None)
    )
    first = next(reading)
    _, runner.restriction = tracker.try_split(0)
    assert ids([first, *reading]) + ids(runner.session()) == [f"{n}-0" for n in range(1, 10)]


def test_a_lease_that_another_job_holds_stops_the_reading(client, server):
    runner = Runner(server, owner="me")
    runner.session()
    with pytest.raises(GroupTaken):
        RedisLease(Connection(server.url), "g", ["s"], "other").acquire()
    read_streams._open_reader.cache_clear()
    client.set("kpiflow:{g}:s:owner", "other")
    with pytest.raises(GroupTaken, match="other"):
        runner.session()


def test_a_reader_says_at_which_watermark_its_committed_position_was(client, server):
    runner, watermarks = Runner(server), []
    for number in range(1, 7):
        add(client, f"{number}-0")
        runner.session()
        watermarks.append(runner.watermark.micros // 1000)
        runner.checkpoint()
    committed = int(client.xinfo_groups("s")[0]["last-delivered-id"].partition(b"-")[0])
    assert 0 < committed < 6
    opened = read_streams._open_reader(runner.read.options, 0, ("s",))
    assert opened.status.committed == watermarks[committed - 1]
    assert len(opened.watermarks) < 6


def test_a_reader_says_how_far_it_is(client, server, tmp_path: Path):
    runner = Runner(server, status=tmp_path)
    add(client, "1-0", "2-0", "3-0")
    runner.session()
    said = json.loads((tmp_path / "reader-0.json").read_text())
    place = {"position": "3-0", "index": 3, "added": 3, "lost": 0, "went_back": 0, "moved": 0, "ahead": 0}
    assert said == {
        "reader": 0,
        "streams": {"s": place},
        "read": 3,
        "newest": 3,
        "watermark": said["time"] - 10_000,
        "committed": None,
        "time": said["time"],
    }


@pytest.mark.parametrize("torn", ["", "{", "[1]", "null", '{"read": 1, "streams": {"s": {}}}'])
def test_the_counts_of_a_status_outlive_the_process_and_a_torn_file(
    client, server, tmp_path: Path, torn: str
):
    runner = Runner(server, status=tmp_path, ahead_seconds=-1e12)
    file = tmp_path / "reader-0.json"
    add(client, "1-0", "2-0", "3-0")
    runner.session()
    for number, read in ((4, 4), (5, 5)):
        read_streams._open_reader.cache_clear()
        add(client, f"{number}-0")
        runner.session()
        said = json.loads(file.read_text())
        assert (said["read"], said["streams"]["s"]["ahead"]) == (read, read)
    file.write_text(torn)
    read_streams._open_reader.cache_clear()
    add(client, "6-0")
    runner.session()
    assert json.loads(file.read_text())["read"] == 1


def test_a_status_that_cannot_be_written_does_not_stop_the_reading(client, server, tmp_path: Path):
    runner = Runner(server, status=tmp_path / "missing")
    add(client, "1-0")
    assert ids(runner.session()) == ["1-0"]


def test_streams_are_dealt_to_no_more_readers_than_there_are():
    read = ReadFromRedisStreams(Connection("redis://x"), ["a", "b", "a", "c"], "g", readers=8)
    assert (read.streams, read.readers) == (("a", "b", "c"), 3)


def test_the_transform_expands_to_an_unbounded_source():
    pipeline = beam.Pipeline("DirectRunner")
    streams = pipeline | ReadFromRedisStreams(Connection("redis://x"), ["a", "b"], "g", readers=2)
    assert [collection.is_bounded for collection in streams] == [False] * 3
    _ = streams.messages | AsDicts()
    pipeline.to_runner_api()


def test_messages_as_dicts_hold_the_data_without_the_newline(client, server):
    add(client, "1500-0")
    (output,) = Runner(server).session()
    assert [{**row, "received_at": row["received_at"].timestamp()} for row in as_dicts(output.value)] == [
        {"source": "s", "message_id": "1500-0", "received_at": 1.5, "data": b"1500-0"}
    ]


class Clock:
    """Time that passes only while reads block or read, which takes 10 ms; at most two entries are read at a
    time."""

    def __init__(self, arrivals: list[int]) -> None:
        self.now, self.arrivals = 0.0, sorted(arrivals)

    def read(self, positions, count, block_ms) -> ReadEntries:
        if not self.arrivals or self.arrivals[0] > self.now * 1000 + block_ms:
            self.now += block_ms / 1000
            return _Rows(0, positions, True)
        self.now = max(self.now, self.arrivals[0] / 1000)
        here = [time for time in self.arrivals if time <= self.now * 1000]
        self.now += 0.01
        self.arrivals = self.arrivals[min(2, len(here)) :]
        return _Rows(min(2, len(here)), positions, len(here) < 2)


class _Rows:
    def __init__(self, rows: int, positions, to_end: bool) -> None:
        self.rows, self.positions, self.to_end = rows, positions, to_end


@pytest.mark.parametrize(
    ("arrivals", "rows", "end"),
    [
        ([], [0], 1.0),
        ([950], [1], 0.96),
        ([300, 301, 302], [1], 0.31),
        ([0, 0, 0], [2, 1], 0.02),
        ([0, 0, 500], [2, 0], 0.01),
        ([0] * 100, [2] * 11, 0.11),
    ],
    ids=["idle", "a first entry", "several", "behind", "no longer behind", "far behind"],
)
def test_a_session_ends_when_its_streams_are_read_to_their_end_or_after_a_time(arrivals, rows, end):
    clock = Clock(arrivals)
    reads = list(read_session(clock.read, {}, Session(read_ms=95, idle_ms=1000), lambda: clock.now))
    assert ([read.rows for read in reads], round(clock.now, 2)) == (rows, end)
