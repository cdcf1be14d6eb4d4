"""Archives of streams: what was written is read again to the byte, once, whatever happens to the writer."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners import direct
from schemas.readers.verdicts import MessageLimits
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.envelopes.envelope_lines import NO_DATA, write_entry
from transforms.sinks.archive import archive_writer, stream_archive
from transforms.sinks.archive.archive_files import MESSAGES, REFUSED
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.archived_ids import parse_entry_id, read_ids
from transforms.sinks.archive.stream_archive import ArchiveSync, StreamArchive, WriteArchive
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files
from transforms.sources.archives.envelope_chunks import REJECTED, reject_messages
from transforms.validation.quarantine_rows import quarantine_misfits

NOON = datetime(2025, 10, 22, 12, tzinfo=UTC)
NOON_MS = 1_761_134_400_000
HOUR_MS = 3_600_000
MANY = range(0, 40_000, 7)
octets = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)


def raw(ids: Sequence[str], data: Sequence[bytes] | None = None, source: str = "kpi") -> pa.RecordBatch:
    """RAW messages of a stream as its source gives them; the data is the id unless given."""
    times = [NOON + timedelta(milliseconds=int(each.split("-")[0]) - NOON_MS) for each in ids]
    payloads = [each + b"\n" for each in data or [each.encode() for each in ids]]
    columns = [[source] * len(ids), list(ids), times, payloads]
    return pa.RecordBatch.from_arrays(
        [pa.array(each, kind) for each, kind in zip(columns, RAW.types)], schema=RAW
    )


def ids(numbers: Sequence[int]) -> list[str]:
    return [f"{NOON_MS + number}-{number % 3}" for number in numbers]


def stored(folder: Path) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Messages (RAW) and rejected ones (REJECTED) of an archive, as a backfill reads them."""
    chunks = [chunk for chunk in read_files(find_files([str(folder)])) if isinstance(chunk, Chunk)]
    return concat([chunk.messages for chunk in chunks] or [make_empty(RAW)]), concat(
        [chunk.rejected for chunk in chunks] or [make_empty(REJECTED)]
    )


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_entries_are_read_as_they_came_from_a_file_an_hour(tmp_path: Path) -> None:
    rows = raw(ids([0, 1, HOUR_MS - 1, HOUR_MS, 5 * HOUR_MS]))
    assert ArchiveWriter(tmp_path).append(rows) == 5
    assert stored(tmp_path)[0].equals(rows)
    assert names(tmp_path) == [f"kpi/2025-10-22T{hour}.ndjson" for hour in (12, 13, 17)]


@settings(max_examples=60, deadline=None)
@given(st.lists(octets, min_size=1, max_size=9), st.text(min_size=1, max_size=9))
def test_every_byte_string_comes_back_from_every_source(data: list[bytes], source: str) -> None:
    rows = raw(ids(range(len(data))), data, source)
    with tempfile.TemporaryDirectory() as folder:
        ArchiveWriter(Path(folder)).append(rows)
        assert stored(Path(folder))[0].equals(rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 60), st.booleans()), min_size=1, max_size=12))
def test_replays_and_restarts_leave_each_entry_once_in_order(steps: list[tuple[int, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer, reached, new = ArchiveWriter(Path(folder)), 0, 0
        for back, count, restarts in steps:
            writer = ArchiveWriter(Path(folder)) if restarts else writer
            first = max(0, reached - back)
            new += writer.append(raw(ids([60_000 * number for number in range(first, first + count)])))
            reached = max(reached, first + count)
        assert new == reached
        assert stored(Path(folder))[0]["message_id"].to_pylist() == ids(
            [60_000 * number for number in range(reached)]
        )


def test_ids_are_compared_as_numbers(tmp_path: Path) -> None:
    rows = raw([f"{NOON_MS}-{number}" for number in (0, 9, 10, 11, 100)])
    writer = ArchiveWriter(tmp_path)
    assert [writer.append(rows.slice(0, 3)), writer.append(rows)] == [3, 2]
    assert writer.find_last("kpi") == f"{NOON_MS}-100"
    assert writer.find_last("other") is None


def test_two_writers_that_take_turns_lose_and_repeat_nothing(tmp_path: Path) -> None:
    writers = [ArchiveWriter(tmp_path), ArchiveWriter(tmp_path)]
    for number in range(30):
        assert (
            writers[number % 2].append(raw(ids([600_000 * n for n in range(max(0, number - 4), number + 1)])))
            == 1
        )
    assert stored(tmp_path)[0]["message_id"].to_pylist() == ids([600_000 * n for n in range(30)])


def test_sources_of_one_batch_have_an_archive_each(tmp_path: Path) -> None:
    first, second = raw(ids([1, 2]), source="a/b"), raw(ids([1, 5]), source="c")
    mixed = concat([first, second]).take(pa.array([2, 0, 1, 3]))
    assert ArchiveWriter(tmp_path).append(mixed) == 4
    assert names(tmp_path) == ["a%2Fb/2025-10-22T12.ndjson", "c/2025-10-22T12.ndjson"]
    assert stored(tmp_path)[0].equals(concat([first, second]))


@pytest.mark.parametrize("cut", [1, 30, 100, 150])
def test_a_line_that_was_torn_by_a_kill_is_cut_off_and_written_again(tmp_path: Path, cut: int) -> None:
    rows = raw(ids([1, 2, 3]))
    ArchiveWriter(tmp_path).append(rows)
    path = tmp_path / names(tmp_path)[0]
    os.truncate(path, path.stat().st_size - cut)
    assert ArchiveWriter(tmp_path).append(rows) == 1 + (cut > 100)
    assert stored(tmp_path)[0].equals(rows)


def test_a_file_torn_in_its_first_line_goes_on_after_the_hour_before(tmp_path: Path) -> None:
    rows = raw(ids([1, HOUR_MS]))
    ArchiveWriter(tmp_path).append(rows)
    os.truncate(tmp_path / names(tmp_path)[1], 40)
    assert ArchiveWriter(tmp_path).append(rows) == 1
    assert stored(tmp_path)[0].equals(rows)


def test_a_last_line_longer_than_what_is_read_at_a_time_is_found(tmp_path: Path) -> None:
    rows = raw(ids([1, 2]), [b"x" * 300_000, b"y" * 200_000])
    ArchiveWriter(tmp_path).append(rows)
    assert ArchiveWriter(tmp_path).append(rows) == 0
    path = tmp_path / names(tmp_path)[0]
    os.truncate(path, path.stat().st_size - 100_000)
    assert ArchiveWriter(tmp_path).append(rows) == 1
    assert stored(tmp_path)[0].equals(rows)


def test_an_archive_that_ends_in_something_else_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "kpi").mkdir()
    (tmp_path / "kpi" / "2025-10-22T12.ndjson").write_text('{"task_id":"t"}\n')
    with pytest.raises(DamagedFile, match=r"does not end in an entry's envelope.*move the file away"):
        ArchiveWriter(tmp_path).append(raw(ids([1])))


@pytest.mark.parametrize("wrong", [["m1"], ids([2, 1]), ids([1, 1])])
def test_messages_that_are_no_entries_in_order_are_an_error(tmp_path: Path, wrong: list[str]) -> None:
    rows = raw(ids(range(len(wrong)))).set_column(1, "message_id", pa.array(wrong))
    with pytest.raises(ValueError, match=r"is no id of a stream's entry|not in the order of their ids"):
        ArchiveWriter(tmp_path).append(rows)


def refused_entry(number: int, fields: dict[bytes, bytes]) -> pa.RecordBatch:
    """The QUARANTINE row of an entry without data, as a stream makes it."""
    line = write_entry("kpi", f"{NOON_MS + number}-0", NOON_MS + number, fields)
    return quarantine_misfits(
        reject_messages(raw([f"{NOON_MS + number}-0"], [line]), pa.array([NO_DATA])), MessageLimits()
    )


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.binary(max_size=9).filter(lambda name: name != b"data"), st.binary(max_size=20), max_size=4
    )
)
def test_an_entry_without_data_has_the_same_row_from_the_archive(fields: dict[bytes, bytes]) -> None:
    row = refused_entry(1, fields)
    with tempfile.TemporaryDirectory() as folder:
        assert [ArchiveWriter(Path(folder)).append(row, REFUSED) for _ in range(2)] == [1, 0]
        messages, bad = stored(Path(folder))
    assert (messages.num_rows, quarantine_misfits(bad, MessageLimits())) == (0, row)


def test_entries_without_data_do_not_hold_back_the_others(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    writer.append(refused_entry(9, {b"a": b"b"}), REFUSED)
    assert writer.append(raw(ids([1, 2]))) == 2
    assert names(tmp_path) == ["kpi/2025-10-22T12.ndjson", "kpi/2025-10-22T12.refused.ndjson"]


def test_a_time_that_no_calendar_has_is_archived_without_one(tmp_path: Path) -> None:
    rows, far = (
        raw(ids([0])),
        raw(ids([3])).set_column(2, "received_at", pa.nulls(1, RAW.field("received_at").type)),
    )
    writer = ArchiveWriter(tmp_path)
    assert [writer.append(rows), writer.append(far), writer.append(far)] == [1, 1, 0]
    assert names(tmp_path) == ["kpi/2025-10-22T12.ndjson", "kpi/unknown.ndjson"]
    assert stored(tmp_path)[0]["received_at"].to_pylist() == [NOON, None]


def test_a_full_disk_leaves_whole_lines_and_the_next_attempt_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, room, write = raw(ids(range(20))), [700], os.write

    def filling(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    writer = ArchiveWriter(tmp_path)
    writer.append(rows.slice(0, 5))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", filling)
        with pytest.raises(OutputFull, match="free some and run the same command again"):
            writer.append(rows)
    assert stored(tmp_path)[0].equals(rows.slice(0, 5))
    assert writer.append(rows) == 15
    assert stored(tmp_path)[0].equals(rows)


def test_a_writer_killed_at_any_moment_is_followed_by_one_that_completes_its_work(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from transforms.sinks.archive.archive_writer import ArchiveWriter\n"
        "from tests.transforms.sinks.archive.test_archive_writer import MANY, ids, raw\n"
        "writer = ArchiveWriter(Path(sys.argv[1]))\n"
        "for first in range(0, len(MANY), 100):\n"
        "    writer.append(raw(ids(MANY[first : first + 100])))\n"
        "    print('on', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]
    )
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    process.kill()
    process.wait()
    process.stdout.close()
    left = ArchiveWriter(tmp_path).append(raw(ids(MANY)))
    assert 0 < left < len(MANY)
    assert stored(tmp_path)[0]["message_id"].to_pylist() == ids(MANY)


def test_the_transform_archives_both_kinds(tmp_path: Path) -> None:
    rows, refused = raw(ids([1, 2, 3])), refused_entry(4, {b"a": b"\xff"})

    def graph(root: beam.Pipeline) -> None:
        messages = root | "Messages" >> beam.Create([rows], reshuffle=False).with_output_types(pa.RecordBatch)
        others = root | "Others" >> beam.Create([refused], reshuffle=False).with_output_types(pa.RecordBatch)
        _ = (messages, others) | WriteArchive(StreamArchive(tmp_path))

    direct.run(graph)
    messages, bad = stored(tmp_path)
    assert (messages.equals(rows), quarantine_misfits(bad, MessageLimits()).equals(refused)) == (True, True)


def test_a_sync_covers_what_has_grown_since_the_last_whoever_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        stream_archive,
        "sync_if_present",
        lambda path: synced.append(path.relative_to(tmp_path.parent).as_posix()),
    )
    writer, sync, root = ArchiveWriter(tmp_path), ArchiveSync(tmp_path), tmp_path.name

    def after(*appended: tuple[pa.RecordBatch, str]) -> list[str]:
        for rows, kind in appended:
            writer.append(rows, kind)
        synced.clear()
        sync.sync(["kpi", "never seen"])
        return sorted(synced)

    noon, refused, one = (f"{root}/kpi/2025-10-22T{name}.ndjson" for name in ("12", "12.refused", "13"))
    assert after((raw(ids([1])), MESSAGES)) == sorted([noon, f"{root}/kpi", root])
    assert after() == []
    assert after((raw(ids([2])), MESSAGES)) == [noon]
    assert after((refused_entry(3, {b"a": b"b"}), REFUSED)) == sorted([refused, f"{root}/kpi", root])
    assert after((raw(ids([4, HOUR_MS])), MESSAGES)) == sorted([noon, one, f"{root}/kpi", root])


@pytest.mark.parametrize("first", [0, 1, 500])
def test_zeros_that_a_power_cut_left_are_cut_with_all_that_comes_after(tmp_path: Path, first: int) -> None:
    rows = raw(ids(range(100)))
    ArchiveWriter(tmp_path).append(rows)
    (path,) = tmp_path.rglob("*.ndjson")
    written = path.read_bytes()
    path.write_bytes(written[:first] + bytes(1000) + written[first + 1000 :])
    whole = written[:first].count(b"\n")
    assert ArchiveWriter(tmp_path).append(rows) == 100 - whole
    assert path.read_bytes() == written


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True),
            st.sampled_from(["", "restart", "tear"]),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=100)
def test_every_entry_is_archived_once_however_often_ids_go_back(batches: list[tuple[list[int], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer, sent = ArchiveWriter(Path(folder)), set()
        for numbers, then in batches:
            new = ids([number * (HOUR_MS // 9) for number in sorted(numbers)])
            assert writer.append(raw(new)) == len(set(new) - sent)
            sent |= set(new)
            if then:
                writer = ArchiveWriter(Path(folder))
            if then == "tear":  # the process died while it wrote; what is not in a checkpoint is read again
                for path in Path(folder, "kpi").glob("*.late.ndjson"):
                    path.write_bytes(path.read_bytes()[:-5])
                writer.append(raw(sorted(sent, key=parse_entry_id)))
        assert sorted(stored(Path(folder))[0]["message_id"].to_pylist()) == sorted(sent)


def test_a_stream_that_was_made_again_with_older_ids_is_archived(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    writer.append(raw(ids([0, 5000])))
    again = raw(ids(range(1000, 1020)))
    assert [writer.append(again), ArchiveWriter(tmp_path).append(again), writer.find_last("kpi")] == [
        20,
        0,
        ids([5000])[0],
    ]
    assert names(tmp_path) == ["kpi/2025-10-22T12.late.ndjson", "kpi/2025-10-22T12.ndjson"]


def test_what_is_read_again_is_looked_up_without_reading_the_whole_file(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path)
    writer.append(raw(ids(range(0, 3_000_000, 20))))
    again = raw(ids(range(2_000_000, 2_000_200, 20)))
    began = time.process_time()
    assert writer.append(again) == 0
    assert time.process_time() - began < 0.1


def test_late_lines_are_read_once_however_many_appends_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_files = []
    monkeypatch.setattr(
        archive_writer, "read_ids", lambda lines, path: read_files.append(path) or read_ids(lines, path)
    )
    writer = ArchiveWriter(tmp_path)
    writer.append(raw(ids([3_000_000])))
    late = [raw(ids(range(first, first + 20))) for first in range(0, 1000, 10)]
    assert [writer.append(rows) for rows in late] == [20, *[10] * 99]
    assert len(read_files) == 1
    assert stored(tmp_path)[0].num_rows == 1 + 1010


def test_writers_that_take_turns_know_the_late_lines_of_each_other(tmp_path: Path) -> None:
    writers = [ArchiveWriter(tmp_path), ArchiveWriter(tmp_path)]
    writers[0].append(raw(ids([3_000_000])))
    assert [writers[turn % 2].append(raw(ids(range(turn, turn + 3)))) for turn in range(20)] == [3, *[1] * 19]
    assert stored(tmp_path)[0].num_rows == 1 + 22
