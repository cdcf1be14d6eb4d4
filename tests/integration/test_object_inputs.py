"""The commands read archives from a bucket as they read them from a folder."""

import gzip
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
from pipelines.sources import Request, parse_source
from tests.builders import NOON, report
from tests.integration.archives import envelope
from tests.s3 import S3Server, wire
from transforms.core.time_range import Span
from transforms.sources.archives import object_files


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
    (finding,) = parse_source(Request((pattern,)), Settings()).check()
    assert finding.what.startswith("2 files")


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
