"""Files of bare lines: the tables depend on which files there are, not on their names, packing, or the runs
they come in."""

import json
import random
from pathlib import Path

import pytest

from pipelines.jobs.backfill import backfill
from pipelines.jobs.engines import LocalEngine
from pipelines.settings import Settings
from pipelines.verify.parity import compare_outputs
from pipelines.verify.reconcile import reconcile
from schemas.tables import DUPLICATES, QUARANTINED
from tests.builders import NOON, payload
from tests.integration.archives import Typed, rows, stream, write
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import find_files
from transforms.sources.archives.archive_reader import Chunk, read_files

SETTINGS = Settings(min_samples=4, shards=2, file_minutes=60)


def day(draw: random.Random, seed: int) -> list[bytes]:
    """The bare lines of a file: reports, some of them twice, some refused, some blank."""
    lines = [payload(json.loads(line)["data"]) for line in stream(draw.randint(5, 30), seed=seed, start=NOON)]
    lines += draw.choices(lines, k=3)
    draw.shuffle(lines)
    return [b"[", *lines, b"", draw.choice(lines)]


def filled(output: Path, *runs: list[Path]) -> Path:
    """An output after a backfill of each of these inputs."""
    for files in runs:
        backfill(find_files([str(file) for file in files]), [str(output)], SETTINGS, Span(), LocalEngine())
    return output


def assert_same_rows(one: Path, other: Path) -> None:
    compared = compare_outputs(one, other, identity=True)
    assert [str(each) for comparison in compared.values() for each in comparison.differences] == []
    assert all(comparison.same for comparison in compared.values())


def assert_reconciled(output: Path, *files: Path) -> None:
    chunks = [
        chunk for chunk in read_files(find_files([str(file) for file in files])) if isinstance(chunk, Chunk)
    ]
    verdict = reconcile(output, lambda _: iter([part for chunk in chunks for part in chunk]))
    assert verdict.problems == []
    assert verdict.received == verdict.reports + verdict.quarantined + verdict.duplicates


@pytest.mark.parametrize("seed", range(4))
def test_files_of_one_name_give_the_same_rows_in_one_run_or_in_many(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    files = [
        write(tmp_path / f"d{number}" / "reports.ndjson", day(draw, 10 * seed + number))
        for number in range(3)
    ]
    together = filled(tmp_path / "together", files)
    assert_same_rows(
        together, filled(tmp_path / "apart", *([file] for file in draw.sample(files, len(files))))
    )
    assert_reconciled(together, *files)
    assert rows(together, DUPLICATES)
    assert rows(together, QUARANTINED)


@pytest.mark.parametrize("name", ["of/another/name.json", "reports.jsonl.gz", "reports.ndjson.zst"])
def test_a_copy_of_a_file_that_was_read_changes_nothing(tmp_path: Path, name: str) -> None:
    lines = day(random.Random(7), 7)
    original, copy = write(tmp_path / "reports.ndjson", lines), write(tmp_path / "copy" / name, lines)
    once = filled(tmp_path / "once", [original])
    assert_same_rows(once, filled(tmp_path / "twice", [original], [copy]))
    assert_same_rows(once, filled(tmp_path / "beside", [original, copy]))
    assert_reconciled(once, copy)


def test_a_file_that_grew_is_read_as_if_it_had_been_whole(tmp_path: Path) -> None:
    lines = day(random.Random(8), 8)
    begin, whole = write(tmp_path / "begin.ndjson", lines[:9]), write(tmp_path / "reports.ndjson", lines)
    grown = filled(tmp_path / "grown", [begin], [whole])
    assert_same_rows(filled(tmp_path / "once", [whole]), grown)
    assert_reconciled(grown, whole)


def test_a_byte_order_mark_that_is_taken_away_leaves_the_messages_what_they_were(
    tmp_path: Path, typed: Typed
) -> None:
    lines = stream(9, seed=9)
    source = write(tmp_path / "day.ndjson", [b"\xef\xbb\xbf" + lines[0], *lines[1:]])
    output = filled(tmp_path / "out", [source])
    write(source, lines)
    assert_same_rows(output, filled(tmp_path / "clean", [source]))
    filled(output, [source])
    assert typed("reconcile", output, "--input", source)[0] == 0
