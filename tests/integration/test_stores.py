"""Stores that are no folder, through the command line: an object store and BigQuery end up with the rows that
a folder has."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.bigquery import store
from tests.integration.archives import Typed, stream, write
from tests.s3 import S3Server


@pytest.fixture(scope="module", params=["s3", "bigquery"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store, without the end of its name."""
    if request.param == "s3":
        with S3Server() as server:
            server.make_bucket("bucket")
            yield server.url("bucket", "kpi s")
    else:
        yield store(f"d{uuid4().hex}", request.getfixturevalue("emulator")).name


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """An archive in two parts: the second holds later messages, and repetitions of the first."""
    lines = stream(400, seconds=40)
    return [write(tmp_path / "a.ndjson", lines[:250]), write(tmp_path / "b.ndjson", lines[200:])]


def test_a_store_holds_what_a_folder_holds_whatever_came_when(
    place: str, parts: list[Path], tmp_path: Path, typed: Typed
) -> None:
    folder = tmp_path / "whole"
    assert typed("backfill", "--input", *parts, "--output", folder)[0] == 0
    for part in parts:
        assert typed("backfill", "--input", part, "--output", place, "--output", tmp_path / "beside")[0] == 0
    for other in (folder, tmp_path / "beside"):
        code, told, _ = typed("parity", other, place, "--identity")
        assert (code, "both hold the same rows" in told) == (0, True), told
    code, told, _ = typed("reconcile", place, "--input", *parts, "--json")
    assert code == 0
    assert json.loads(told)["missing"] == json.loads(told)["surplus"] == 0

    assert typed("doctor", "--output", place)[0] == 0
    assert json.loads(typed("show", place, "--json")[1])["output"] == place
    assert typed("quarantine", "list", place, "--json")[1] == typed("quarantine", "list", folder, "--json")[1]


def test_other_settings_and_another_command_are_refused(
    place: str, parts: list[Path], tmp_path: Path, typed: Typed
) -> None:
    assert typed("backfill", "--input", parts[0], "--output", place)[0] == 0
    code, _, err = typed("backfill", "--input", parts[0], "--output", place, "--iqr-factor", "2")
    assert (code, "iqr_factor is 2.0 now and was 3.0" in " ".join(err.split())) == (2, True), err
    span = ("--from", "2025-10-22T12:00:00Z", "--to", "2025-10-22T13:00:00Z")
    code, _, err = typed("backfill", "--input", parts[0], "--output", place, "--replace", *span)
    assert (code, "--replace rewrites one folder" in " ".join(err.split())) == (2, True), err


def test_what_is_replayed_goes_to_every_output(
    place: str, parts: list[Path], tmp_path: Path, typed: Typed
) -> None:
    folder = tmp_path / "out"
    assert typed("backfill", "--input", *parts, "--output", folder, "--output", place)[0] == 0
    corrected = tmp_path / "corrected.ndjson"
    assert typed("quarantine", "show", folder, "--export", corrected)[0] == 0
    corrected.write_text(corrected.read_text().replace('\\"accuracy\\": 2', '\\"accuracy\\": 0.9'))
    code, told, err = typed("quarantine", "replay", folder, "--input", corrected, "--also", place)
    assert code == 0, err
    assert not told.startswith("0 replayed")
    assert typed("parity", folder, place, "--identity")[0] == 0
