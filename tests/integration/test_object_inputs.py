"""The commands read archives from a bucket as they read them from a folder."""

import gzip
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from pipelines import cli
from pipelines.failures import RunFailed, WrongUse
from pipelines.inputs import find_archives
from pipelines.jobs.backfill import backfill
from pipelines.jobs.engines import LocalEngine
from pipelines.settings import Settings
from pipelines.sources import SourceRequest, parse_source
from tests.builders import NOON, report
from tests.integration.archives import Typed, envelope
from tests.s3 import S3Server, wire
from tests.transforms.sinks.archive.test_archive_writer import ids, raw
from transforms.core.time_range import Span
from transforms.encryption.key_ring import KeySource, forget_keys
from transforms.encryption.master_key import KeyFile
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sources.archives import object_files
from transforms.storage.local_folder import LocalFolder


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bucket")
        yield server


LINES = [envelope(report(i, NOON + timedelta(seconds=i)), f"{i}-0", None) + b"\n" for i in range(100)]


def test_a_backfill_of_objects_is_reconciled_with_them(
    server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = server.storage("bucket", "archive")
    with storage.connect() as client:
        obstore.put(client, "a.ndjson", b"".join(LINES[:50]))
        obstore.put(client, "deep/b.ndjson.gz", gzip.compress(b"".join(LINES[50:])))
    files, output = find_archives([storage.name]), [str(tmp_path / "out")]
    results = backfill(files, output, Settings(min_samples=4), Span(), LocalEngine())
    assert (results.messages, results.incomplete) == (100, ())
    pattern = storage.name.replace("archive", "archive/**/*.ndjson*")
    for words in (["reconcile", str(tmp_path / "out"), "--input"], ["validate"]):
        assert cli.run([*words, pattern]) == 0
        assert "100" in capsys.readouterr().out
    (finding,) = parse_source(SourceRequest((pattern,)), Settings()).check()
    assert finding.what.startswith("2 files")


def test_an_encrypted_archive_is_read_from_a_bucket_with_the_keys_beside_it(
    server: S3Server, tmp_path: Path, typed: Typed
) -> None:
    master = KeyFile(tmp_path / "m.key")
    master.create(NOON)
    keys = KeySource(LocalFolder(tmp_path / "archive"), master.name)
    keys.begin()
    ArchiveWriter(tmp_path / "archive", keys).append(raw(ids(range(3)), LINES[:3]))
    storage = server.storage("bucket", "encrypted")
    files = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
    with storage.connect() as client:
        for path in files:
            obstore.put(client, path.relative_to(tmp_path / "archive").as_posix(), path.read_bytes())
    forget_keys()
    code, said, errors = typed("validate", storage.name, "--json")
    assert (code, "--master-key" in errors) == (2, True), said + errors
    forget_keys()
    code, said, errors = typed("validate", storage.name, "--json", "--master-key", master.name)
    assert (code, json.loads(said)["refused"]) == (0, {"schema": 3}), said + errors
    forget_keys()


def test_a_bucket_that_cannot_be_used_is_wrong_use_or_a_failed_run(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongUse, match="there is no bucket 'other'") as raised:
        find_archives([server.url("other")])
    assert raised.value.fix == "make it, or name another"
    with pytest.raises(WrongUse, match="matches no archive"):
        find_archives([server.url("bucket", "nothing")])
    with pytest.raises(WrongUse, match="size is no option"):
        find_archives(["s3://bucket/a?size=1"])
    monkeypatch.setattr(object_files, "PATIENCE_SECONDS", 0)
    with wire(server.endpoint, lambda *_: 503) as endpoint, pytest.raises(RunFailed, match="answers 503"):
        find_archives([f"s3://bucket/a?endpoint={endpoint}&region=us-east-1"])
