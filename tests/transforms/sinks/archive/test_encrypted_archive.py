"""Encrypted archives: read as they were written, or the reader says what is wrong; whatever happens to the
writer."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transforms.sinks.archive.test_archive_writer import HOUR_MS, MANY, ids, names, raw, refused_entry
from transforms.core.errors import DamagedFile, OutputFull
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.encryption.archive_keys import ArchiveKeys
from transforms.encryption.key_list import KEYS
from transforms.encryption.key_ring import KeySource, forget_keys
from transforms.encryption.master_key import KeyFile, KeyRefused
from transforms.encryption.rotation import rotate_keys
from transforms.envelopes.encrypted_segments import CHUNK_BYTES
from transforms.sinks.archive import encrypted_lines
from transforms.sinks.archive.archive_files import REFUSED
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.stream_archive import StreamArchive
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, Unreadable, read_files
from transforms.storage.local_folder import LocalFolder


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    master = KeyFile(tmp_path_factory.mktemp("secrets") / "master.key")
    master.create(datetime.now(UTC))
    return master


@pytest.fixture
def keys(tmp_path: Path, master: KeyFile) -> Iterator[KeySource]:
    forget_keys()
    keys = KeySource(LocalFolder(tmp_path / "archive"), master.name)
    keys.begin()
    yield keys
    forget_keys()


@pytest.fixture
def folder(keys: KeySource) -> Path:
    assert isinstance(keys.storage, LocalFolder)
    return keys.storage.path


@pytest.fixture
def writer(folder: Path, keys: KeySource) -> ArchiveWriter:
    return ArchiveWriter(folder, keys)


def stored(folder: Path, keys: KeySource) -> tuple[pa.RecordBatch, list[str]]:
    """The messages of an archive as a backfill reads them, and what is said of files that cannot be read."""
    found = list(read_files(find_files([str(folder)], ArchiveKeys(keys.master))))
    messages = [each.messages for each in found if isinstance(each, Chunk)]
    return concat(messages or [make_empty(RAW)]), [
        each.reason for each in found if isinstance(each, Unreadable)
    ]


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.enc")
    return path


def test_entries_are_read_as_they_came_and_no_byte_of_them_is_in_plain(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    rows = raw(ids([0, 1, HOUR_MS - 1, HOUR_MS, 5 * HOUR_MS]), [b"secret" * 5] * 5)
    assert writer.append(rows) == 5
    assert writer.append(refused_entry(6 * HOUR_MS, {b"a": b"secret"}), REFUSED) == 1
    assert stored(folder, keys) == (rows, [])
    hours = [f"kpi/2025-10-22T{hour}.ndjson.enc" for hour in ("12", "13", "17")]
    assert names(folder) == [KEYS, *hours, "kpi/2025-10-22T18.refused.ndjson.enc"]
    forget_keys()
    assert stored(folder, keys) == (rows, [])
    octets = b"".join((folder / name).read_bytes() for name in names(folder))
    assert not [word for word in (b"secret", b"message_id", b"kpi", b"fields") if word in octets[2000:]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True),
            st.sampled_from(["", "restart", "tear", "another writer"]),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_every_entry_is_archived_once_however_often_ids_go_back(
    folder: Path, keys: KeySource, batches: list[tuple[list[int], str]]
) -> None:
    shutil.rmtree(folder / "kpi", ignore_errors=True)
    writers, sent = [ArchiveWriter(folder, keys), ArchiveWriter(folder, keys)], set()
    for numbers, then in batches:
        new = ids([number * (HOUR_MS // 9) for number in sorted(numbers)])
        assert writers[0].append(raw(new)) == len(set(new) - sent)
        sent |= set(new)
        if then == "another writer":
            writers.reverse()
        if then in ("restart", "tear"):
            writers[0] = ArchiveWriter(folder, keys)
        if then == "tear":  # the process died while it wrote; what is not in a checkpoint is read again
            for path in folder.rglob("*.late.ndjson.enc"):
                os.truncate(path, path.stat().st_size - 5)
            writers[0].append(raw(sorted(sent, key=lambda each: tuple(map(int, each.split("-"))))))
    rows, unreadable = stored(folder, keys)
    assert (sorted(rows["message_id"].to_pylist()), unreadable) == (sorted(sent), [])


@pytest.mark.parametrize("left", [1, 7, 50, 91, 92, 93, 150, -1])
def test_a_torn_end_is_reported_and_then_cut_off_and_written_again(
    folder: Path, keys: KeySource, writer: ArchiveWriter, left: int
) -> None:
    """`left`: how many bytes of the last append a kill left."""
    rows = raw(ids(range(9)))
    writer.append(rows.slice(0, 4))
    path = only_file(folder)
    whole = path.stat().st_size
    writer.append(rows)
    os.truncate(path, whole + left if left > 0 else path.stat().st_size - 1)
    assert stored(folder, keys) == (rows.slice(0, 4), ["cut short (its last segment ends too early)"])
    assert ArchiveWriter(folder, keys).append(rows) == 5
    assert stored(folder, keys) == (rows, [])


@pytest.mark.parametrize("first", [0, 1, 200, 3000, 9000])
def test_zeros_that_a_power_cut_left_are_cut_with_all_that_comes_after(
    folder: Path, keys: KeySource, writer: ArchiveWriter, first: int
) -> None:
    rows = raw(ids(range(100)))
    for number in range(0, 100, 20):
        writer.append(rows.slice(number, 20))
    path = only_file(folder)
    written = path.read_bytes()
    path.write_bytes(written[:first] + bytes(1000) + written[first + 1000 :])
    assert ArchiveWriter(folder, keys).append(rows) > 0
    assert stored(folder, keys) == (rows, [])


def test_a_change_that_no_crash_makes_is_refused_by_the_writer_and_reported_by_the_reader(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    rows = raw(ids(range(9)))
    writer.append(rows.slice(0, 4))
    path = only_file(folder)
    first = path.stat().st_size
    writer.append(rows)
    written = path.read_bytes()
    for place in (first, first + 10, first + 40, first + 90, first + 95, len(written) - 1):
        changed = bytearray(written)
        changed[place] ^= 1
        path.write_bytes(changed)
        found, (problem,) = stored(folder, keys)
        assert found.equals(rows.slice(0, 4))
        assert problem.startswith(("corrupt", "cannot be decrypted", "cut short"))
        if "cut short" not in problem:
            with pytest.raises(DamagedFile, match="move the file away"):
                ArchiveWriter(folder, keys).append(rows)
            assert path.read_bytes() == changed


def test_a_file_that_ends_in_a_zero_by_chance_is_not_cut(
    folder: Path, keys: KeySource, writer: ArchiveWriter, master: KeyFile, tmp_path: Path
) -> None:
    """Neither with the list of keys of another archive, nor if a byte was changed."""
    writer.append(raw(ids([0])))
    path = only_file(folder)
    number = 0
    while not path.read_bytes().endswith(b"\0") or path.stat().st_size % 512 == 1:
        number += 1
        writer.append(raw(ids([number])))
    written, own = path.read_bytes(), (folder / KEYS).read_bytes()
    path.write_bytes(written[:200] + bytes([written[200] ^ 1]) + written[201:])
    with pytest.raises(DamagedFile, match="move the file away"):
        ArchiveWriter(folder, keys).append(raw(ids([number + 1])))
    assert path.stat().st_size == len(written)
    path.write_bytes(written)
    forget_keys()
    KeySource(LocalFolder(tmp_path / "other"), master.name).begin()
    shutil.copy(tmp_path / "other" / KEYS, folder / KEYS)
    forget_keys()
    with pytest.raises(DamagedFile, match="put back the list of keys of this archive"):
        ArchiveWriter(folder, keys).append(raw(ids([number + 1])))
    assert path.read_bytes() == written
    (folder / KEYS).write_bytes(own)
    forget_keys()
    assert ArchiveWriter(folder, keys).append(raw(ids([number, number + 1]))) == 1


def test_segments_and_chunks_that_were_moved_or_left_out_are_noticed(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    edges = [0]
    for number in range(3):
        writer.append(raw(ids([number]), [b"x" * 600_000]))  # three chunks each
        edges.append(only_file(folder).stat().st_size)
    path = only_file(folder)
    written = path.read_bytes()
    first, second, third = (written[start:end] for start, end in zip(edges, edges[1:]))
    chunk = CHUNK_BYTES + 16
    inside = [first[92 + start : 92 + start + chunk] for start in (0, chunk)]
    for wrong in (
        second + third,
        first + third,
        first + third + second,
        first + second + second + third,
        first[:92] + inside[1] + inside[0] + first[92 + 2 * chunk :] + second + third,
        first[:92] + inside[0] + inside[0] + first[92 + 2 * chunk :] + second + third,
        first[:92] + inside[0] + first[92 + 2 * chunk :] + second + third,
    ):
        path.write_bytes(wrong)
        assert stored(folder, keys)[1] == [
            "corrupt (a segment was changed, moved or left out after it was written)"
        ]


def test_a_segment_of_another_file_does_not_open(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    for source in ("one", "two"):
        for number in (1, 2):
            writer.append(raw(ids([number]), source=source))
    one, two = (next((folder / source).iterdir()) for source in ("one", "two"))
    half = one.stat().st_size // 2
    one.write_bytes(one.read_bytes()[:half] + two.read_bytes()[half:])
    assert stored(folder, keys)[1] == [
        "corrupt (a segment was changed, moved or left out after it was written)"
    ]


def test_a_file_that_was_cut_at_the_end_of_a_segment_is_noticed_once_the_next_hour_has_begun(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    writer.append(raw(ids([1])))
    path = only_file(folder)
    whole = path.stat().st_size
    writer.append(raw(ids([2])))
    writer.append(raw(ids([HOUR_MS])))
    assert stored(folder, keys)[1] == []
    os.truncate(path, whole)
    (problem,) = stored(folder, keys)[1]
    assert "its end is missing" in problem


def test_a_restart_before_a_new_hour_closes_the_file_of_the_hour_before(
    folder: Path, keys: KeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before and just after the file is closed."""
    rows = raw(ids([1, HOUR_MS]))
    ArchiveWriter(folder, keys).append(rows.slice(0, 1))

    class Killed(BaseException):
        pass

    def kill(*anything: object) -> None:
        raise Killed

    for killed in ("close", "append"):
        with monkeypatch.context() as patch:
            patch.setattr(encrypted_lines.EncryptedLines, killed, kill)
            with pytest.raises(Killed):
                ArchiveWriter(folder, keys).append(rows)
    assert ArchiveWriter(folder, keys).append(rows) == 1
    assert stored(folder, keys) == (rows, [])


def test_what_was_read_again_is_found_without_decrypting_the_whole_file(
    folder: Path, keys: KeySource, writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(0, 2000, 20):
        writer.append(raw(ids(range(first, first + 20))))
    decrypt, opened = encrypted_lines.decrypt_segment, []
    monkeypatch.setattr(
        encrypted_lines, "decrypt_segment", lambda *words: opened.append(words) or decrypt(*words)
    )
    assert writer.append(raw(ids(range(1500, 1530)))) == 0
    assert len(opened) < 15


def test_a_full_disk_leaves_whole_segments_and_the_next_attempt_uses_other_keys(
    folder: Path, keys: KeySource, writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, write, written = raw(ids(range(20))), os.write, []

    def fill(descriptor: int, data: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "full")
        written.append(bytes(data[:300]))
        return write(descriptor, data[:300])

    writer.append(rows.slice(0, 5))
    size = only_file(folder).stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(OutputFull):
            writer.append(rows)
    assert stored(folder, keys) == (rows.slice(0, 5), [])
    assert writer.append(rows) == 15
    assert stored(folder, keys) == (rows, [])
    assert only_file(folder).read_bytes()[size + 100 : size + 300] != written[0][100:]


def test_a_writer_killed_at_any_moment_is_followed_by_one_that_completes_its_work(
    folder: Path, keys: KeySource
) -> None:
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "from transforms.sinks.archive.archive_writer import ArchiveWriter\n"
        "from tests.transforms.sinks.archive.test_archive_writer import MANY, ids, raw\n"
        "writer = ArchiveWriter(Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2])))\n"
        "for first in range(0, len(MANY), 100):\n"
        "    writer.append(raw(ids(MANY[first : first + 100])))\n"
        "    print('on', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(folder), pickle.dumps(keys).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]) as process:
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        process.kill()
    left = ArchiveWriter(folder, keys).append(raw(ids(MANY)))
    assert 0 < left < len(MANY)
    rows, unreadable = stored(folder, keys)
    assert (rows["message_id"].to_pylist(), unreadable) == (ids(MANY), [])


def test_a_large_file_is_read_in_bounded_memory(folder: Path, keys: KeySource, writer: ArchiveWriter) -> None:
    for number in range(40):
        writer.append(raw(ids(range(10 * number, 10 * number + 10)), [b"x" * 100_000] * 10))
    files = find_files([str(folder)], ArchiveKeys(keys.master))
    tracemalloc.start()
    try:
        rows = sum(each.messages.num_rows for each in read_files(files, 1 << 20) if isinstance(each, Chunk))
        assert (rows, tracemalloc.get_traced_memory()[1] < 12 << 20) == (400, True)
    finally:
        tracemalloc.stop()


def test_keys_are_rotated_and_files_stay_as_they_are(
    folder: Path, keys: KeySource, writer: ArchiveWriter
) -> None:
    rows = raw(ids([1, 2]))
    writer.append(rows)
    before = only_file(folder).read_bytes()
    rotate_keys(keys, datetime.now(UTC))
    forget_keys()
    assert only_file(folder).read_bytes() == before
    assert stored(folder, keys) == (rows, [])


def test_a_reader_without_the_key_is_refused_and_a_writer_writes_nothing(
    folder: Path, keys: KeySource, writer: ArchiveWriter, tmp_path: Path
) -> None:
    writer.append(raw(ids([1])))
    other = KeyFile(tmp_path / "other.key")
    other.create(datetime.now(UTC))
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    for wrong, problem in ((None, "give --master-key"), (other.name, "has no version")):
        forget_keys()
        with pytest.raises(KeyRefused, match=problem):
            stored(folder, KeySource(keys.storage, wrong))
        with pytest.raises(KeyRefused, match=problem):
            ArchiveWriter(folder, KeySource(keys.storage, wrong)).append(raw(ids([1, 2])))
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_file_away_from_its_list_of_keys_says_which_key_it_needs(
    folder: Path, keys: KeySource, writer: ArchiveWriter, tmp_path: Path
) -> None:
    writer.append(raw(ids([1])))
    key_id = keys.find_writing_key().id
    (tmp_path / "elsewhere").mkdir()
    only_file(folder).rename(tmp_path / "elsewhere" / "a.ndjson.enc")
    forget_keys()
    with pytest.raises(KeyRefused, match=f"the key {key_id}, and no _keys.json is known"):
        stored(tmp_path / "elsewhere", keys)


def test_two_stream_archives_of_the_same_keys_are_equal_wherever_they_are(
    folder: Path, keys: KeySource
) -> None:
    archive = StreamArchive(folder, keys)
    assert pickle.loads(pickle.dumps(archive)) == archive
    assert archive != StreamArchive(folder)
