"""Finding archives, reading them whatever their format and state, and the same in a Beam pipeline."""

import gzip
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import line_id
from transforms.sources.archives.archive_files import NoArchiveError, find_files
from transforms.sources.archives.archive_reader import (
    Chunk,
    ReadArchives,
    Unreadable,
    read_ahead,
    read_chunks,
    read_files,
)
from transforms.validation.message_kinds import name_kinds

ENVELOPE = b'{"message_id":"%d-0","received_at":null,"data":{"i":%d}}\n'
WRONG = b'{"message_id":1,"received_at":null,"data":{}}\n'
TEXT = b"".join(ENVELOPE % (i, i) for i in range(500))
PAYLOADS = [b'{"i":%d}\n' % i for i in range(500)]


def payloads(chunks: Iterable[Chunk | Unreadable]) -> list[bytes]:
    return [
        payload
        for chunk in chunks
        if isinstance(chunk, Chunk)
        for payload in chunk.messages["payload"].to_pylist()
    ]


def ids(chunks: Iterable[Chunk | Unreadable]) -> list[str]:
    return [
        id_
        for chunk in chunks
        if isinstance(chunk, Chunk)
        for id_ in chunk.messages["message_id"].to_pylist()
    ]


def problems(chunks: Iterable[Chunk | Unreadable]) -> list[tuple[str, str]]:
    return [(Path(chunk.file).name, chunk.reason) for chunk in chunks if isinstance(chunk, Unreadable)]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}\n")


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The paths of what patterns below an own folder mean."""
    monkeypatch.chdir(tmp_path)
    return lambda *patterns: list(find_files(patterns))


def test_a_folder_means_every_archive_below_it(found: Callable, tmp_path: Path) -> None:
    names = ["a.ndjson", "b/c.JSONL", "b/d.json", "e.ndjson.gz", "f.jsonl.zst", "g.parquet"]
    touch(
        tmp_path,
        *names,
        "truth.json",
        "b/truth.json",
        "notes.txt",
        "b/c.csv",
        ".hidden.ndjson",
        "x.ndjson/y.txt",
    )
    assert found(".") == names


def test_patterns_are_files_folders_and_globs_and_each_file_comes_once(
    found: Callable, tmp_path: Path
) -> None:
    touch(tmp_path, "a/1.ndjson", "a/b/2.ndjson", "a/b/c/3.ndjson", "[4].ndjson", "d/5.ndjson", "d/5.csv")
    (tmp_path / "6.ndjson").symlink_to("a/1.ndjson")
    expected = ["6.ndjson", "[4].ndjson", "a/b/2.ndjson", "a/b/c/3.ndjson", "d/5.ndjson"]
    assert found("a/**/*.ndjson", "./a/b/2.ndjson", "[4].ndjson", "d*", "6.ndjson") == expected


def test_a_pattern_that_matches_no_archive_is_named(found: Callable, tmp_path: Path) -> None:
    touch(tmp_path, "a.ndjson", "b.csv", "truth.json")
    for pattern in ("b.csv", "c/*.ndjson", "truth.json", "gone.ndjson"):
        with pytest.raises(NoArchiveError, match=f"'{pattern}' matches no archive".replace("*", r"\*")):
            found("a.ndjson", pattern)


def test_a_pattern_can_say_what_its_messages_are(found: Callable, tmp_path: Path) -> None:
    touch(tmp_path, "a.ndjson", "b=task/c.ndjson", "b=task/d.ndjson", "e.ndjson")
    files = find_files(["a.ndjson=agent", "b=task/", "b=task/c.ndjson=task", "*.ndjson"])
    assert {file.path: file.kind for file in files.whole} == {
        "a.ndjson": "agent",
        "b=task/c.ndjson": "task",
        "b=task/d.ndjson": None,
        "e.ndjson": None,
    }
    chunks = [chunk for chunk in read_files(files) if isinstance(chunk, Chunk)]
    assert [name_kinds(chunk.messages).to_pylist() for chunk in chunks] == [
        ["agent", "task"],
        ["kpi_report", "kpi_report"],
    ]
    with pytest.raises(NoArchiveError, match=r"a\.ndjson is given as agent and as task"):
        find_files(["a.ndjson=agent", "./a.ndjson=task"])
    with pytest.raises(NoArchiveError, match="behind = may be kpi_report, task"):
        find_files(["a.ndjson=tasks"])


def test_the_size_of_the_files_is_known(tmp_path: Path) -> None:
    touch(tmp_path, "a.ndjson", "b.ndjson")
    (tmp_path / "c.ndjson").symlink_to("gone")
    assert find_files([str(tmp_path)]).total_bytes == 6


def write(folder: Path) -> list[str]:
    """One archive in every format; their paths."""
    columns = {"message_id": [f"{i}-0" for i in range(500)], "data": [payload[:-1] for payload in PAYLOADS]}
    pq.write_table(pa.table({**columns, "received_at": pa.nulls(500)}), folder / "a.parquet")
    for name, text in {
        "b.ndjson": TEXT,
        "c.json": TEXT.replace(b"\n", b"\r\n").removesuffix(b"\r\n"),
        "d.ndjson.gz": gzip.compress(TEXT[:5000]) + gzip.compress(TEXT[5000:]),
        "e.jsonl.zst": zstandard.compress(TEXT[:5000]) + zstandard.compress(TEXT[5000:]),
    }.items():
        (folder / name).write_bytes(text)
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.parametrize("chunk_bytes", [50, 1000, 1 << 20])
def test_every_format_gives_the_same_messages_in_chunks_of_any_size(tmp_path: Path, chunk_bytes: int) -> None:
    for path in write(tmp_path):
        chunks = list(read_chunks(path, chunk_bytes))
        assert payloads(chunks) == PAYLOADS
        assert ids(chunks) == [f"{i}-0" for i in range(500)]
        assert problems(chunks) == []


def test_lines_are_counted_across_chunks(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"{}\n\n" * 100 + WRONG + b"{}")
    chunks = [*read_chunks(str(tmp_path / "a.ndjson"), 10)]
    assert ids(chunks) == [line_id(number, b"{}") for number in [*range(1, 200, 2), 202]]
    assert [id_ for chunk in chunks for id_ in chunk.rejected["message_id"].to_pylist()] == [
        line_id(201, WRONG)
    ]


BARE = b'{"i":1}\n{"i":2}\n{"i":2}\n'
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("of/another/name.json", BARE),
        ("a.ndjson", BARE.replace(b"\n", b"\r\n")),
        ("a.ndjson", BARE.removesuffix(b"\n")),
        ("a.ndjson", MARK + BARE),
        ("a.ndjson.gz", gzip.compress(BARE[:9], mtime=0) + gzip.compress(BARE[9:], mtime=0)),
        (
            "a.ndjson.gz",
            gzip.compress(MARK[:1], mtime=0)
            + gzip.compress(MARK[1:], mtime=0)
            + gzip.compress(BARE, mtime=0),
        ),
        ("a.ndjson.zst", zstandard.compress(MARK + BARE)),
    ],
)
def test_a_copy_of_a_file_holds_the_same_messages_however_it_is_kept(
    tmp_path: Path, name: str, octets: bytes
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(octets)
    expected = [line_id(number, line) for number, line in enumerate(BARE.splitlines(), 1)]
    assert ids(read_chunks(str(tmp_path / name))) == expected
    assert len(set(expected)) == 3


def test_a_file_that_grew_holds_what_it_held(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(BARE)
    before = ids(read_chunks(str(tmp_path / "a.ndjson")))
    (tmp_path / "a.ndjson").write_bytes(BARE + BARE)
    assert ids(read_chunks(str(tmp_path / "a.ndjson")))[:3] == before


def test_a_line_that_was_changed_is_another_message_and_its_neighbours_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(BARE)
    (tmp_path / "b.ndjson").write_bytes(BARE.replace(b'{"i":2}', b'{"i":20}', 1))
    first, second = (ids(read_chunks(str(tmp_path / name))) for name in ("a.ndjson", "b.ndjson"))
    assert [one == other for one, other in zip(first, second)] == [True, False, True]


def test_a_byte_order_mark_before_an_envelope_leaves_it_one(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(MARK + TEXT)
    assert ids(read_chunks(str(tmp_path / "a.ndjson"))) == [f"{i}-0" for i in range(500)]


def test_the_bytes_worked_off_add_up_to_the_file(tmp_path: Path) -> None:
    for path in write(tmp_path):
        counted: list[int] = []
        assert len(list(read_chunks(path, 5000, counted.append))) > 1
        assert sum(counted) == os.path.getsize(path)
        assert min(counted) > 0


def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    for path in write(tmp_path):
        Path(path).rename(f"{tmp_path}/{Path(path).name.replace('.', '1.', 1)}")
    (tmp_path / "a0.ndjson").symlink_to("gone")
    (tmp_path / "b0.ndjson").write_bytes(b"")
    (tmp_path / "b1.parquet").write_bytes(b"")
    (tmp_path / "d0.ndjson.gz").write_bytes(TEXT)
    (tmp_path / "e0.ndjson.zst").write_bytes(TEXT)
    chunks = list(read_files(find_files([str(tmp_path)])))
    assert payloads(chunks) == PAYLOADS * 5
    assert [(file, reason[:20]) for file, reason in problems(chunks)] == [
        ("a0.ndjson", "cannot be read (No s"),
        ("b1.parquet", "no Parquet, or corru"),
        ("d0.ndjson.gz", "no gzip from byte 0 "),
        ("e0.ndjson.zst", "no zstd from byte 0 "),
    ]


def test_small_files_come_together_and_one_that_cannot_be_read_does_not_part_them(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.ndjson").write_bytes(TEXT if number != 2 else WRONG)
    (tmp_path / "3.ndjson.gz").write_bytes(b"no gzip")
    found = list(read_files(find_files([str(tmp_path)])))
    (chunk,) = (chunk for chunk in found if isinstance(chunk, Chunk))
    assert chunk.messages["payload"].to_pylist() == 4 * PAYLOADS
    assert chunk.rejected.num_rows == 1
    assert [file for file, _ in problems(found)] == ["3.ndjson.gz"]
    assert (
        len([chunk for chunk in read_files(find_files([str(tmp_path)]), 2000) if isinstance(chunk, Chunk)])
        > 8
    )


def test_chunks_of_nothing_but_bad_lines_do_not_heap_up(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(WRONG * 1000)
    found = [chunk for chunk in read_files(find_files([str(tmp_path)]), 2000) if isinstance(chunk, Chunk)]
    assert sum(chunk.rejected.num_rows for chunk in found) == 1000
    assert max(chunk.rejected.nbytes for chunk in found) < 20_000


def test_of_a_file_that_is_cut_short_the_whole_lines_are_kept(tmp_path: Path) -> None:
    packed = gzip.compress(TEXT)
    (tmp_path / "a.ndjson.gz").write_bytes(packed[: len(packed) // 2])
    chunks = list(read_files(find_files([str(tmp_path)])))
    kept = payloads(chunks)
    assert kept == PAYLOADS[: len(kept)]
    assert len(kept) > 100
    assert problems(chunks) == [("a.ndjson.gz", "cut short (its gzip data ends too early)")]


def test_a_file_name_that_is_not_utf_8_can_be_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.ndjson")).write_bytes(b"{}\n")
    assert ids(read_files(find_files([str(tmp_path)]))) == [line_id(1, b"{}")]


@given(st.lists(st.integers()))
def test_reading_ahead_changes_nothing(items: list[int]) -> None:
    assert list(read_ahead(iter(items))) == items


def test_reading_ahead_makes_no_more_than_one_item_beyond() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            yield item

    reader = read_ahead(items())
    assert next(reader) == 0
    reader.close()
    assert made in ([0], [0, 1])


def test_an_error_while_reading_ahead_reaches_the_reader() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("torn")

    reader = read_ahead(items())
    assert next(reader) == 1
    with pytest.raises(RuntimeError, match="torn"):
        next(reader)


def test_a_pipeline_reads_archives(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(TEXT + WRONG)
    (tmp_path / "b.ndjson.gz").write_bytes(b"no gzip")
    with beam.Pipeline("FnApiRunner") as pipeline:
        archives = pipeline | ReadArchives(find_files([str(tmp_path)]), chunk_bytes=1000)
        found = archives.messages | beam.FlatMap(lambda batch: batch["payload"].to_pylist())
        broken = archives.rejected | beam.FlatMap(lambda batch: batch["message"].to_pylist())
        reasons = archives.unreadable | beam.MapTuple(lambda file, reason: (Path(file).name, reason[:7]))
        assert_that(found, equal_to(PAYLOADS), "raw")
        assert_that(broken, equal_to(["message_id must be a string"]), "bad")
        assert_that(reasons, equal_to([("b.ndjson.gz", "no gzip")]), "unreadable")
        assert [archives.messages.element_type, archives.rejected.element_type] == [pa.RecordBatch] * 2
