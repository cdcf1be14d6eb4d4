"""How commands end: the exit code, and a message that names the cause and the fix."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.lock import lock_folders
from schemas.tables import AGGREGATIONS, QUARANTINED, REPORTS
from tests.builders import list_paths
from tests.integration.archives import Typed, fates, make_output, stream, write
from transforms.sinks.parquet.parquet_file import encode_file, read_file

LINES = stream(150, seed=21)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write(tmp_path / "a.ndjson", LINES)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_output(tmp_path_factory.mktemp("made"), LINES)


@pytest.fixture
def done(made: Path, output: Path) -> Path:
    """An output of the archive."""
    return shutil.copytree(made, output)


def differing(compared: dict[str, Any]) -> set[str]:
    """The columns that a table's comparison explains differences of."""
    return {difference["column"] for difference in compared["differences"]}


def described(output: Path, **parts: object) -> None:
    """Change parts of an output's description of itself."""
    file = output / "_kpiflow.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


@pytest.mark.parametrize("command", [["backfill", "--output", "out"], ["validate"]])
def test_a_glob_without_an_archive_is_wrong_use(
    tmp_path: Path, typed: Typed, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = typed(*command, *([] if command == ["validate"] else ["--input"]), "none/*.ndjson")
    assert (code, "'none/*.ndjson' matches no archive" in err, "check the path" in err) == (2, True, True)
    assert not (tmp_path / "out").exists()


def test_reconcile_with_a_glob_without_an_archive_is_wrong_use(made: Path, typed: Typed) -> None:
    code, _, err = typed("reconcile", made, "--input", "none/*.ndjson")
    assert (code, "'none/*.ndjson' matches no archive" in err, "check the path" in err) == (2, True, True)


def test_what_comes_before_the_cut_of_a_truncated_archive_is_kept(
    tmp_path: Path, output: Path, typed: Typed
) -> None:
    whole = gzip.compress(b"".join(line + b"\n" for line in LINES))
    (tmp_path / "cut.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    code, _, err = typed("backfill", "--input", tmp_path / "cut.ndjson.gz", "--output", output)
    assert (code, "cut.ndjson.gz cut short" in err, "could not be read to the end" in err) == (
        1,
        True,
        True,
    )
    kept = len(fates(output))
    assert 0 < kept < len(LINES)
    assert fates(output).keys() == {json.loads(line)["message_id"] for line in LINES[:kept]}
    assert typed("reconcile", output, "--input", tmp_path / "cut.ndjson.gz")[0] == 1
    (tmp_path / "cut.ndjson.gz").write_bytes(whole)
    assert typed("backfill", "--input", tmp_path / "cut.ndjson.gz", "--output", output)[0] == 0
    assert typed("reconcile", output, "--input", tmp_path / "cut.ndjson.gz")[0] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_file_is_named_and_costs_the_others_nothing(
    tmp_path: Path, output: Path, typed: Typed, workers: int
) -> None:
    write(tmp_path / "in" / "a.ndjson", LINES * 10)
    (tmp_path / "in" / "lost.ndjson").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "text.parquet").write_text("no Parquet")
    code, _, err = typed(
        "backfill", "--input", tmp_path / "in", "--output", output, "--workers", workers, "--block-hours", 1
    )
    assert (code, "lost.ndjson cannot be read" in err, "text.parquet no Parquet" in err, "2 of 3" in err) == (
        1,
        True,
        True,
        True,
    )
    assert len(fates(output)) == len(LINES)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_results_of_a_run_are_the_same_with_any_number_of_workers(
    tmp_path: Path, output: Path, typed: Typed, workers: int
) -> None:
    whole = gzip.compress(b"".join(line + b"\n" for line in LINES))
    for name in ("cut", "short"):
        (tmp_path / "in" / f"{name}.ndjson.gz").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    words = ["--workers", workers, "--timings"]
    code, out, err = typed("backfill", "--input", tmp_path / "in", "--output", output, *words)
    assert (code, err.count(".ndjson.gz cut short"), "2 of 2 input files" in err) == (1, 2, True)
    messages = 2 * len(fates(output))
    assert f"{messages} messages of 2 files" in out
    assert re.search(rf"^ *validate +{messages} ", out, re.MULTILINE)


@pytest.mark.parametrize("option", ["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
def test_an_option_of_beam_that_the_engine_decides_is_wrong_use(
    archive: Path, output: Path, typed: Typed, option: str
) -> None:
    code, _, err = typed("backfill", "--input", archive, "--output", output, "--", option)
    assert (code, option.partition("=")[0] in err, "--workers" in err) == (2, True, True)


@pytest.mark.parametrize(
    "command", [["backfill"], ["reconcile"], ["parity"], ["show"], ["quarantine", "list"], ["generate"]]
)
def test_an_unknown_flag_is_wrong_use(typed: Typed, command: list[str]) -> None:
    code, _, err = typed(*command, "--nonsense", "1")
    assert (code, "--nonsense" in err) == (2, True)


def test_a_setting_out_of_range_is_wrong_use(archive: Path, output: Path, typed: Typed) -> None:
    code, _, err = typed("backfill", "--input", archive, "--output", output, "--file-minutes", "7")
    assert (code, "file_minutes" in err, "divide 60" in err) == (2, True, True)
    assert not output.exists()


def test_settings_that_differ_from_those_of_the_output_are_named(
    archive: Path, done: Path, typed: Typed
) -> None:
    code, _, err = typed("backfill", "--input", archive, "--output", done, "--iqr-factor", "2.5")
    assert (code, "iqr_factor is 2.5 now and was 3.0" in err, "--iqr-factor 3.0" in err) == (2, True, True)


def test_an_output_of_a_newer_layout_is_left_alone(archive: Path, done: Path, typed: Typed) -> None:
    described(done, layout=99)
    backfill = ["backfill", "--input", archive, "--output", done]
    for command in (
        backfill,
        ["reconcile", done],
        ["show", done],
        ["parity", done, done],
        ["quarantine", "list", done],
    ):
        code, _, err = typed(*command)
        assert (code, "newer kpiflow" in err, "upgrade" in err) == (2, True, True), command


def test_an_output_without_the_newest_columns_is_read_and_added_to(
    tmp_path: Path, archive: Path, done: Path, typed: Typed
) -> None:
    for table, column in (
        (REPORTS, "target_agent_type"),
        (AGGREGATIONS, "latency_p99_ms"),
        (QUARANTINED, "resolution"),
    ):
        for path in list_paths(done, table):
            rows = read_file(path)
            path.write_bytes(encode_file(rows.select([name for name in rows.schema.names if name != column])))
    assert typed("reconcile", done, "--input", archive)[0] == 0
    assert typed("show", done)[0] == 0
    assert typed("quarantine", "list", done)[0] == 0
    assert typed("parity", done, done)[0] == 0
    more = write(tmp_path / "more.ndjson", stream(150, seed=22))
    assert typed("backfill", "--input", more, "--output", done)[0] == 0
    assert typed("reconcile", done, "--input", archive, more)[0] == 0
    assert typed("backfill", "--input", archive, more, "--output", tmp_path / "new")[0] == 0
    _, out, _ = typed("parity", done, tmp_path / "new", "--identity", "--json")
    compared = json.loads(out)["tables"]
    assert compared["kpi_reports"] == compared["kpi_reports"] | {"different": 0, "only_a": 0, "only_b": 0}
    assert not {column for each in compared.values() for column in differing(each)} - {"latency_p99_ms"}


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (["--from", "2025-10-22T12:30:00Z"], range(120, 150)),
        (["--to", "2025-10-22T14:30:00+02:00"], range(120)),
    ],
)
def test_only_reports_of_the_span_are_taken(
    archive: Path, output: Path, typed: Typed, span: list[str], expected: range
) -> None:
    assert typed("backfill", "--input", archive, "--output", output, *span)[0] == 0
    reports = {name.split("-")[1] for name, fate in fates(output).items() if fate == "report"}
    assert reports
    assert {int(number) for number in reports} <= set(expected)


@pytest.mark.parametrize(
    "span", [["--from", "noon"], ["--from", "2025-10-22T12:00:00Z", "--to", "2025-10-22T12:00:00Z"]]
)
def test_a_span_without_sense_is_wrong_use(
    archive: Path, output: Path, typed: Typed, span: list[str]
) -> None:
    code, _, err = typed("backfill", "--input", archive, "--output", output, *span)
    assert (code, "--from" in err) == (2, True)


def test_a_second_job_on_the_same_output_is_refused(archive: Path, done: Path, typed: Typed) -> None:
    with lock_folders(done):
        for command in (["backfill", "--input", archive, "--output", done], ["quarantine", "replay", done]):
            code, _, err = typed(*command)
            assert (code, "another job is writing" in err) == (2, True)
    assert typed("backfill", "--input", archive, "--output", done)[0] == 0


def test_a_folder_that_holds_something_else_is_left_alone(
    archive: Path, tmp_path: Path, typed: Typed
) -> None:
    code, _, err = typed("backfill", "--input", archive, "--output", tmp_path)
    assert (code, "is no output of kpiflow" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ndjson"]


def test_a_damaged_file_is_named_with_the_mend(
    archive: Path, done: Path, typed: Typed, tmp_path: Path
) -> None:
    path = list_paths(done, REPORTS)[0]
    path.write_bytes(encode_file(read_file(path))[:-9] + b"tampered!")
    more = write(tmp_path / "more.ndjson", stream(10, seed=24))
    code, _, err = typed("backfill", "--input", more, "--output", done)
    assert (code, path.name in err, "--replace" in err, "Traceback" in err) == (3, True, True, False)
