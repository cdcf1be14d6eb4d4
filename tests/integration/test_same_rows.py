"""However messages are cut, ordered, packed and divided, the same messages give the same rows."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.builders import payload
from tests.integration.archives import Typed, on_disk, stream, write

LINES = stream(900, agents=3, seconds=30, seed=5)
"""Nearly three hours of three agents."""


def backfilled(
    output: Path, lines: Sequence[bytes], names: Sequence[str] = ("all.ndjson",), settings: str = ""
) -> Path:
    """The output of an archive with its lines dealt out to files of these names."""
    for place, name in enumerate(names):
        write(output.with_suffix(".in") / name, lines[place :: len(names)])
    assert run(["backfill", "--input", f"{output}.in", "--output", str(output), *settings.split()]) == 0
    return output


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of LINES as they are."""
    return backfilled(tmp_path_factory.mktemp("plain") / "out", LINES)


@pytest.fixture
def shuffled() -> list[bytes]:
    """LINES so mixed that, dealt to two files, no report is twice at one place: without envelopes that is one
    message."""
    return random.Random(8).sample(LINES, len(LINES))


def reports(lines: Sequence[bytes]) -> list[bytes]:
    """The same reports without envelopes."""
    return [payload(json.loads(line)["data"]) for line in lines]


def digests(output: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in on_disk(output).items()}


def test_running_it_again_changes_no_byte(plain: Path) -> None:
    before = on_disk(plain)
    assert run(["backfill", "--input", f"{plain}.in", "--output", str(plain)]) == 0
    assert on_disk(plain) == before


def test_the_cut_and_the_order_of_an_archive_change_no_byte(
    plain: Path, shuffled: list[bytes], tmp_path: Path
) -> None:
    files = ["a.ndjson.gz", "b.json.zst", "c/d.parquet", "d.jsonl"]
    other = backfilled(tmp_path / "out", shuffled, files, "--shards 3 --read-mb 1")
    assert digests(other) == digests(plain)


def test_files_of_another_length_hold_the_same_rows(
    plain: Path, shuffled: list[bytes], tmp_path: Path, typed: Typed
) -> None:
    other = backfilled(tmp_path / "out", shuffled, ["a.ndjson", "b.ndjson.gz"], "--file-minutes 10")
    assert typed("parity", plain, other, "--identity")[0] == 0


def test_bare_reports_hold_the_same_rows_but_for_their_messages(
    tmp_path: Path, shuffled: list[bytes], typed: Typed
) -> None:
    one = backfilled(tmp_path / "one", reports(LINES))
    two = backfilled(
        tmp_path / "two", reports(shuffled), ["x.ndjson", "y.ndjson.zst"], "--shards 1 --file-minutes 60"
    )
    assert typed("parity", one, two)[0] == 0
    assert typed("parity", one, two, "--identity")[0] == 1


def test_a_changed_report_is_a_difference_that_is_explained(
    plain: Path, tmp_path: Path, typed: Typed
) -> None:
    place = next(
        place
        for place, line in enumerate(LINES)
        if isinstance(json.loads(line)["data"], dict) and place > 400
    )
    said = json.loads(LINES[place])
    said["data"]["latency_ms"] = 9999.5
    other = backfilled(tmp_path / "out", [*LINES[:place], json.dumps(said).encode(), *LINES[place + 1 :]])
    code, out, err = typed("parity", plain, other)
    assert (code, "kpi_reports" in err, "kpi_aggregations" in err) == (1, True, True)
    assert "max_latency_ms" in out
    assert "9999.5 in B" in out


@pytest.mark.parametrize(
    "settings",
    [
        "--workers 1 --block-hours 1",
        "--workers 2 --block-hours 1",
        "--workers 3 --block-hours 4",
        "--workers 2 --block-hours 24 --shards 3",
        "--workers 2 --block-hours 1 --shards 2 --read-mb 1",
        "--workers 2 --block-reports 1000",
    ],
)
def test_workers_blocks_and_shards_change_no_row(
    plain: Path, shuffled: list[bytes], tmp_path: Path, typed: Typed, settings: str
) -> None:
    other = backfilled(tmp_path / "out", shuffled, ["a.ndjson", "b.ndjson.gz"], settings)
    assert typed("parity", plain, other, "--identity")[0] == 0
    assert typed("reconcile", other, "--input", f"{other}.in")[0] == 0
    assert not (other / "_spool").exists()


@pytest.mark.slow
def test_many_blocks_give_what_one_gives(tmp_path: Path, typed: Typed) -> None:
    lines = stream(5200, agents=20, seconds=60, seed=7)
    whole = backfilled(tmp_path / "whole", lines, settings="--workers 1 --block-hours 24")
    for workers, order in ((1, lines), (2, random.Random(8).sample(lines, len(lines)))):
        names = ["a.ndjson", "b.ndjson.gz"]
        blocks = backfilled(
            tmp_path / f"of-{workers}", order, names, f"--workers {workers} --block-reports 1000"
        )
        assert typed("parity", whole, blocks, "--identity")[0] == 0
        assert typed("reconcile", blocks, "--input", f"{blocks}.in")[0] == 0


def test_three_spans_of_time_give_what_one_run_gives(plain: Path, tmp_path: Path, typed: Typed) -> None:
    first, last = "2025-10-22T13:07:11Z", "2025-10-22T14:00:00Z"
    for span in (["--to", first], ["--from", last], ["--from", first, "--to", last]):
        assert typed("backfill", "--input", f"{plain}.in", "--output", tmp_path / "out", *span)[0] == 0
    assert typed("parity", plain, tmp_path / "out", "--identity")[0] == 0


def test_a_string_for_data_is_the_same_message_as_an_object(
    plain: Path, tmp_path: Path, typed: Typed
) -> None:
    said = [json.loads(line) for line in LINES]
    lines = [json.dumps(each | {"data": payload(each["data"]).decode()}).encode() for each in said]
    assert typed("parity", plain, backfilled(tmp_path / "out", lines), "--identity")[0] == 0
