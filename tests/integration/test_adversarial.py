"""The worst archive we can think of: every message gets the one fate it must have, and refused ones keep
their bytes."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.cli import run
from schemas.tables import QUARANTINED, REPORTS
from tests.builders import line_id
from tests.integration.archives import Typed, fates, rows, write
from tests.integration.hostile import FATES, HAND, KEPT, moments

GENERATED = {"lines": ["--compress", "zst"], "bare": ["--bare", "--compress", "gz"], "columns": []}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of HAND, a file of blank lines, and generated archives, one of them as Parquet."""
    folder = tmp_path_factory.mktemp("adversarial") / "archive"
    for name, cases in HAND.items():
        write(folder / name, [case.line for case in cases])
    (folder / "blank.ndjson").write_bytes(b"\n \t\r\n\r\n\n")
    for seed, (name, form) in enumerate(GENERATED.items()):
        mix = "--reports 2000 --agents 6 --dirty 0.2 --duplicates 0.1 --late 0.1 --span 3h"
        mix += f" --start 2025-10-2{seed}T00:00:00Z"
        assert (
            run(["generate", "--output", str(folder / name), "--seed", str(seed), *mix.split(), *form]) == 0
        )
    for path in (folder / "columns").glob("*.ndjson"):
        write(path.with_suffix(".parquet"), path.read_bytes().splitlines())
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def output(archive: Path) -> Path:
    out = archive.parent / "out"
    assert run(["backfill", "--input", str(archive), "--output", str(out), "--read-mb", "1"]) == 0
    return out


def test_every_message_has_exactly_one_fate(archive: Path, output: Path, typed: Typed) -> None:
    code, out, _ = typed("reconcile", output, "--input", archive, "--json")
    counts = json.loads(out)
    truths = [json.loads((archive / name / "truth.json").read_text()) for name in GENERATED]
    hand = Counter(FATES.values())
    expected = {
        name: hand[name[:-1]] + sum(truth[name] for truth in truths) for name in ("reports", "duplicates")
    }
    expected["received"] = len(FATES) + sum(truth["messages"] for truth in truths)
    assert (code, counts["problems"]) == (0, [])
    assert {name: counts[name] for name in expected} == expected


def test_each_hand_made_message_has_the_fate_it_must_have(output: Path) -> None:
    found = fates(output)
    assert {name: found.get(name) for name in FATES} == FATES


def test_generated_dirt_is_refused_for_the_reason_it_was_made_for(archive: Path, output: Path) -> None:
    truths = [json.loads((archive / name / "truth.json").read_text()) for name in GENERATED]
    expected = sum((Counter(truth["quarantined_by_reason"]) for truth in truths), Counter())
    found = Counter(row["reason"] for row in rows(output, QUARANTINED) if row["message_id"] not in FATES)
    assert found == expected


def test_every_refused_message_keeps_its_bytes(archive: Path, output: Path) -> None:
    expected = dict(originals(archive)) | KEPT
    for row in rows(output, QUARANTINED):
        assert row["payload"] == expected[row["message_id"]], row["message_id"]


def originals(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The report's bytes of every generated message, by its id."""
    for path in archive.glob("*/*.zst"):
        for line in zstandard.decompress(path.read_bytes(), 1 << 30).splitlines():
            said = json.loads(line)
            text = (
                said["data"].encode()
                if isinstance(said["data"], str)
                else line[line.index(b'"data":') + len(b'"data":') : -1]
            )
            yield said["message_id"], text
    for path in archive.glob("*/*.gz"):
        for number, line in enumerate(gzip.decompress(path.read_bytes()).splitlines(), start=1):
            yield line_id(number, line), line
    for path in archive.glob("*/*.parquet"):
        columns = pq.read_table(path)
        yield from zip(columns["message_id"].to_pylist(), columns["data"].to_pylist())


def test_a_moment_is_read_to_the_microsecond_in_any_zone(output: Path) -> None:
    found = {
        row["message_id"]: row["recorded_at"] for row in rows(output, REPORTS, ["message_id", "recorded_at"])
    }
    for number, (line, _) in enumerate(moments()[:40], start=1):
        written = json.loads(line)["recorded_at"].upper().replace("Z", "+00:00")
        assert found[line_id(number, line)] == datetime.fromisoformat(written).astimezone(UTC), written


def test_large_integers_keep_their_digits(output: Path) -> None:
    extras = [
        row["extra"] for row in rows(output, REPORTS, ["extra"]) if row["extra"] and "serial" in row["extra"]
    ]
    assert extras == [json.dumps({"serial": 2**63}, separators=(",", ":"))]


def test_the_order_of_lines_and_the_size_of_blocks_change_nothing(tmp_path: Path, typed: Typed) -> None:
    lines = [case.line for case in HAND["envelopes.jsonl"][:11] + HAND["twice.json.zst"]]
    random.Random(4).shuffle(lines)
    for name, part, size in (("one", lines, 1), ("two", sorted(lines), 16)):
        write(tmp_path / name / "lines.ndjson", part)
        assert (
            typed(
                "backfill",
                "--input",
                tmp_path / name,
                "--output",
                tmp_path / f"{name}.out",
                "--read-mb",
                size,
            )[0]
            == 0
        )
    assert typed("parity", tmp_path / "one.out", tmp_path / "two.out", "--identity")[0] == 0
