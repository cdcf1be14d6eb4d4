"""Files in parts: the messages, rejected rows and ids are those of the whole files, wherever they are cut."""

import os
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import line_id
from transforms.core import reach
from transforms.core.errors import Refused
from transforms.core.excerpt import KEPT_BYTES
from transforms.core.record_batches import RAW, concat, make_empty
from transforms.sources.archives import archive_reader, line_ranges
from transforms.sources.archives.archive_files import FileRange, locate_file
from transforms.sources.archives.archive_reader import (
    Chunk,
    ReadArchives,
    Unreadable,
    read_chunks,
    read_files,
)
from transforms.sources.archives.envelope_chunks import REJECTED
from transforms.sources.archives.parts import cut_file, cut_parts

ENVELOPE = b'{"message_id":"%d-0","received_at":null,"data":{"i":%d}}'
MARK = b"\xef\xbb\xbf"
BARE = b'{"task_id":"t"}'
WRONG = b'{"message_id":1,"received_at":null,"data":{}}'
LONG = b'{"message_id":"long","received_at":null,"data":{"a":"%b"}}' % (b"x" * 3 * KEPT_BYTES)
LONG_BARE = b"y" * 3 * KEPT_BYTES
LINES = [b"", b" \t", BARE, BARE + b"\r", MARK + BARE, WRONG, ENVELOPE % (1, 1), LONG, LONG_BARE, b"{", b"\r"]
PAYLOAD_BYTES = 64
"""So that the long lines are LongLines."""

any_text = st.builds(
    lambda mark, lines, end: mark + b"\n".join(lines) + end,
    st.sampled_from([b"", MARK]),
    st.lists(st.sampled_from(LINES), max_size=12),
    st.sampled_from([b"", b"\n", b"\r\n"]),
)


def gather(found: Iterable[Chunk | Unreadable]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """All messages and rejected rows."""
    chunks = [chunk for chunk in found if isinstance(chunk, Chunk)]
    return concat([each.messages for each in chunks] or [make_empty(RAW)]), concat(
        [each.rejected for each in chunks] or [make_empty(REJECTED)]
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts") / "a.ndjson"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, count=st.integers(1, 9), chunk_bytes=st.sampled_from([1, 30, 1 << 20]))
def test_the_ranges_of_a_file_have_exactly_the_messages_of_the_file(
    path: Path, text: bytes, count: int, chunk_bytes: int
) -> None:
    path.write_bytes(text)
    line_ranges._COUNTED.clear()  # files of one size that are written at one moment look like one version
    whole = gather(read_chunks(str(path), payload_bytes=PAYLOAD_BYTES))
    ranges = cut_file(FileRange(str(path), size=len(text)), count)
    done: list[int] = []
    parts = [gather(read_chunks(each, chunk_bytes, done.append, PAYLOAD_BYTES)) for each in ranges]
    assert tuple(map(concat, zip(*parts))) == whole
    assert sum(done) == len(text)


def test_the_ranges_are_the_same_in_any_order_and_when_a_line_fills_several(path: Path) -> None:
    text = b"\n".join([BARE, BARE, b"z" * 5_000_000, WRONG, BARE])
    path.write_bytes(text)
    whole = gather(read_chunks(str(path)))
    ranges = cut_file(FileRange(str(path), size=len(text)), 9)
    parts = {each: gather(read_chunks(each)) for each in reversed(ranges)}
    assert tuple(map(concat, zip(*(parts[each] for each in ranges)))) == whole
    assert sum(part[0].num_rows > 0 for part in parts.values()) == 2


def test_a_range_of_envelopes_counts_no_lines_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"".join(ENVELOPE % (i, i) + b"\n" for i in range(500)))
    monkeypatch.setattr(line_ranges, "_count_newlines", None)
    ranges = cut_file(locate_file(str(path)), 5)
    assert gather(read_files(ranges))[0]["message_id"].to_pylist() == [f"{i}-0" for i in range(500)]


def test_a_file_that_was_written_again_is_counted_again(path: Path) -> None:
    for before in (1, 3):
        path.write_bytes(b"\n" * before + BARE + b"\n" + b"{}\n")
        size = path.stat().st_size
        os.utime(path, ns=(before, before))
        messages, _ = gather(read_chunks(FileRange(str(path), size - 3, None, size)))
        assert messages["message_id"].to_pylist() == [line_id(before + 2, b"{}")]


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_the_groups_of_a_parquet_file_are_each_in_one_range(tmp_path: Path, count: int) -> None:
    texts = [str(i) for i in range(5000)]
    columns = {"message_id": [None, *texts[1:-1], None], "received_at": pa.nulls(5000), "data": texts}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=500)
    path = str(tmp_path / "a.parquet")
    file = locate_file(path)
    done: list[int] = []
    parts = [gather(read_chunks(each, 4096, done.append)) for each in cut_file(file, count)]
    assert tuple(map(concat, zip(*parts))) == gather(read_chunks(path))
    assert 1 < sum(part[0].num_rows > 0 for part in parts) <= 10
    assert sum(done) == file.size


def test_small_files_share_a_part_and_large_plain_ones_are_cut() -> None:
    sizes = [
        ("a.ndjson", 40),
        ("b.ndjson", 250),
        ("c.ndjson.gz", 5),
        ("d.json", 10),
        ("e.zst.jsonl.zst", 900),
    ]
    assert cut_parts([FileRange(path, size=size) for path, size in sizes], 100) == [
        (FileRange("e.zst.jsonl.zst", size=900),),
        (FileRange("a.ndjson", size=40), FileRange("c.ndjson.gz", size=5), FileRange("d.json", size=10)),
        (FileRange("b.ndjson", 0, 83, 250),),
        (FileRange("b.ndjson", 83, 166, 250),),
        (FileRange("b.ndjson", 166, None, 250),),
    ]


@given(
    st.lists(st.tuples(st.sampled_from(["a.json", "b.json.gz", "c.parquet"]), st.integers(0, 10_000))),
    st.integers(300, 2000),
)
def test_every_byte_of_every_file_is_in_one_part(sizes: list[tuple[str, int]], part: int) -> None:
    files = [(f"{number}/{name}", size) for number, (name, size) in enumerate(sizes)]
    parts = cut_parts([FileRange(path, size=size) for path, size in files], part)
    for path, size in files:
        ranges = sorted(each for cut in parts for each in cut if each.path == path)
        assert [each.start for each in ranges] == [0, *(each.end for each in ranges[:-1])]
        assert (ranges[-1].end, {each.size for each in ranges}) == (None, {size})


def test_a_pipeline_reads_large_and_small_files_and_reports_a_fault_once(tmp_path: Path) -> None:
    text = b"".join(ENVELOPE % (i, i) + b"\n" for i in range(500)) + BARE + b"\n" + WRONG
    (tmp_path / "large.ndjson").write_bytes(text)
    (tmp_path / "small.ndjson").write_bytes(BARE)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1" * 5000)
    files = sorted(str(each) for each in tmp_path.iterdir())
    expected = [f"{i}-0" for i in range(500)] + [line_id(501, BARE), line_id(1, BARE)]
    with beam.Pipeline("FnApiRunner") as pipeline:
        archives = pipeline | ReadArchives([*files, "gone.ndjson"], part_bytes=1000)
        found = archives.messages | beam.FlatMap(lambda batch: batch["message_id"].to_pylist())
        wrong = archives.rejected | beam.FlatMap(lambda batch: batch["message_id"].to_pylist())
        faults = archives.unreadable | beam.MapTuple(lambda file, reason: Path(file).name)
        assert_that(found, equal_to(expected), "messages")
        assert_that(wrong, equal_to([line_id(502, WRONG)]), "rejected")
        assert_that(faults, equal_to(["torn.parquet", "gone.ndjson"]), "faults")


def test_a_file_that_became_shorter_is_incomplete_and_one_that_grew_is_read_to_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(BARE * 100)
    ranges = cut_file(FileRange(str(path), size=1500), 3)
    path.write_bytes(b"\n".join([BARE] * 50))
    assert {each.reason for each in read_files(ranges) if isinstance(each, Unreadable)} == {
        "is shorter than it was when the run began"
    }
    path.write_bytes(b"\n".join([BARE] * 200))
    assert gather(read_files(ranges))[0].num_rows == 200


def test_a_worker_on_another_machine_without_the_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(BARE)
    read = archive_reader._Read(1 << 20, None, PAYLOAD_BYTES)
    part = (locate_file(str(path)),)
    monkeypatch.setattr(reach, "gethostname", lambda: "worker-7")
    assert [batch.num_rows for batch in read.process(part)] == [1]
    reach.verify_reach.cache_clear()
    path.unlink()
    with pytest.raises(
        Refused, match=f"the worker on worker-7 cannot read {path}; put the input in a folder"
    ):
        list(read.process(part))
    monkeypatch.undo()
    assert [output.tag for output in read.process(part)] == ["unreadable"]
