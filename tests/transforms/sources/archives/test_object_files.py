"""Archives in a bucket: found by the rules of folders, read a range at a time, whatever the server does."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from tests.builders import line_id
from tests.s3 import Fault, S3Server, wire
from transforms.core.errors import Refused, Unavailable
from transforms.objects import place
from transforms.objects.place import BucketPlace
from transforms.sources.archives import object_files
from transforms.sources.archives.archive_files import ArchiveFiles, FileRange, NoArchiveError, find_files
from transforms.sources.archives.archive_reader import Chunk, ReadArchives, Unreadable, read_files
from transforms.sources.archives.archive_source import Archives
from transforms.sources.archives.parts import cut_file, cut_parts

BARE = b'{"task_id":"%d"}\n'
TEXT = b"".join(BARE % i for i in range(1000))
IDS = [line_id(i + 1, BARE % i) for i in range(1000)]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def folder(server: S3Server, tmp_path: Path) -> BucketPlace:
    """A part of the bucket that is empty."""
    return server.storage("bucket", tmp_path.name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_RETRIES", {"max_retries": 0})
    monkeypatch.setattr(object_files, "PATIENCE_SECONDS", 3)


def put(folder: BucketPlace, name: str, data: bytes = b"{}\n") -> None:
    with folder.connect() as client:
        obstore.put(client, name, data)


def url(folder: BucketPlace, pattern: str, endpoint: str = "") -> str:
    return f"{folder.locate(pattern)}?endpoint={endpoint or folder.endpoint}&region=us-east-1"


def names(files: ArchiveFiles, folder: BucketPlace) -> list[str]:
    return [path.removeprefix(folder.locate("") + "/").rpartition("?")[0] for path in files]


def ids(chunks: list[Chunk | Unreadable]) -> list[str]:
    found = (chunk for chunk in chunks if isinstance(chunk, Chunk))
    return [id_ for chunk in found for id_ in chunk.messages["message_id"].to_pylist()]


def reasons(chunks: list[Chunk | Unreadable]) -> set[str]:
    return {chunk.reason for chunk in chunks if isinstance(chunk, Unreadable)}


def test_a_pattern_means_what_it_means_in_a_folder(
    folder: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["a/1.ndjson", "a/b/2.ndjson.gz", "a/b/c/3.JSON", "[4].ndjson", "d/5.parquet", "d/5.csv"]
    for key in [*keys, "truth.json", ".h/6.ndjson", "a/.7.ndjson", "ab/8.jsonl", "d/9.zst", "e?.ndjson"]:
        put(folder, key)
        Path(key).parent.mkdir(parents=True, exist_ok=True)
        Path(key).write_bytes(b"{}\n")
    for pattern in ("a", "a/*.ndjson", "a/**/*.ndjson*", "[4].ndjson", "a*", "**", "d/", "[ad]/*", "a/b/**"):
        assert names(find_files([url(folder, pattern)]), folder) == list(find_files([pattern])), pattern
    files = find_files([url(folder, ""), url(folder, "a")])
    assert names(files, folder) == sorted([*keys[:5], "ab/8.jsonl", "e?.ndjson"])
    assert (files.total_bytes, files.local) == (3 * len(files), [])
    assert len(ids(list(read_files(files)))) == len(files) - 2  # two are not what their names say
    for nothing in ("x", "a/*.csv", "truth.json", "b"):
        with pytest.raises(NoArchiveError, match="matches no archive"):
            find_files([url(folder, nothing)])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("s3://bucket/a?.ndjson", ".ndjson is no option; write s3://BUCKET/PATTERN"),
        ("s3://id:secret@bucket/a", "a URL is no place for credentials"),
        ("gs:///a.ndjson", "it names no bucket"),
    ],
)
def test_a_url_of_another_form_says_which_form_to_write(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?")):
        find_files([text])


def test_a_large_object_is_read_in_ranges_and_a_small_one_as_a_whole(
    folder: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.sources.archives.archive_files.OBJECT_BYTES", 500)
    columns = {"message_id": IDS, "received_at": pa.nulls(1000), "data": ["{}"] * 1000}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=100)
    put(folder, "a.ndjson", TEXT)
    put(folder, "b.ndjson.gz", gzip.compress(TEXT))
    put(folder, "c.parquet", sink.getvalue().to_pybytes())
    files = find_files([url(folder, "")])
    assert len(cut_parts(files.whole, 5000)) > 6
    with beam.Pipeline("FnApiRunner") as pipeline:
        archives = pipeline | ReadArchives(files, part_bytes=5000)
        found = archives.messages | beam.FlatMap(lambda batch: batch["message_id"].to_pylist())
        assert_that(found, equal_to(IDS * 3))


def test_an_object_that_is_replaced_or_removed_meanwhile_is_incomplete(folder: BucketPlace) -> None:
    put(folder, "a.ndjson", TEXT)
    (file,) = find_files([url(folder, "a.ndjson")]).whole
    put(folder, "a.ndjson", TEXT.upper())
    found = [chunk for each in cut_file(file, 4) for chunk in read_files([each])]
    assert (ids(found), reasons(found)) == ([], {"cannot be read (it was replaced after the run began)"})
    with folder.connect() as client:
        obstore.delete(client, "a.ndjson")
    found = [chunk for each in cut_file(file, 4) for chunk in read_files([each])]
    assert reasons(found) == {"cannot be read (it is not there any more)"}
    assert reasons(list(read_files([file.path]))) == {"cannot be read (there is no such object)"}
    (finding,) = Archives(ArchiveFiles((file,))).check()
    assert "there is no such object" in finding.problem


@pytest.mark.parametrize("fault", [503, "lost", "cut"])
def test_a_failure_that_passes_is_retried(server: S3Server, folder: BucketPlace, fault: Fault) -> None:
    put(folder, "a.ndjson", TEXT)
    faults = [fault, None, fault]
    with wire(server.endpoint, lambda *_: faults.pop(0) if faults else None) as endpoint:
        found = list(read_files(find_files([url(folder, "*.ndjson", endpoint)])))
        assert (reasons(found), ids(found)) == (set(), IDS)
    assert faults == []


def test_a_failure_that_stays_ends_the_run_and_names_its_fix(server: S3Server, folder: BucketPlace) -> None:
    put(folder, "a.ndjson", TEXT)
    with pytest.raises(Refused, match="there is no bucket 'other'; make it"):
        find_files([url(server.storage("other"), "*")])
    states: list[tuple[Fault, type[Exception], str]] = [
        (403, Refused, "s3:GetObject"),
        ((400, "<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), Refused, "another region"),
        (503, Unavailable, "answers 503"),
    ]
    for fault, kind, text in states:
        answer: Callable[[str, str], Fault] = lambda method, path, fault=fault: fault  # noqa: E731
        with wire(server.endpoint, answer) as endpoint, pytest.raises(kind, match=text):
            list(read_files([FileRange(url(folder, "a.ndjson", endpoint), size=5, version="x")]))


def test_without_credentials_the_message_says_where_to_set_them(
    server: S3Server, folder: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(place, "_find_profile", lambda _: None)
    place._get_client.cache_clear()
    faults: list[Fault] = []
    with wire(server.endpoint, lambda *_: faults.pop(0) if faults else None) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(Refused, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
            find_files([url(folder, "*", endpoint)])
