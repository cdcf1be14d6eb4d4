"""`kpiflow reconcile` and `kpiflow parity` as they are typed: what they print and how they end."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.builders import line_id, report

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs one command: its exit code, what it said on stdout, and on stderr."""

    def type_(*words: object) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        return code, *capsys.readouterr()

    return type_


BROKEN = b"{broken"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of four messages, one broken and one a repetition, and the output of its backfill."""
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps(report(number)) for number in (1, 2, 1)] + [BROKEN.decode()]
    (folder / "a.ndjson").write_text("\n".join(lines))
    assert run(["backfill", "--input", str(folder / "a.ndjson"), "--output", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_a_whole_output_reconciles_with_its_archive(folder: Path, typed: Typed) -> None:
    code, out, _ = typed("reconcile", folder / "out", "--input", folder / "*.ndjson")
    assert (code, "every message has exactly one fate" in out) == (0, True)
    assert [line.split() for line in out.splitlines()][:3] == [
        ["received", "4"],
        ["reports", "2"],
        ["quarantined", "1"],
    ]


def test_the_json_holds_the_counts_and_the_problems(folder: Path, typed: Typed) -> None:
    code, out, _ = typed("reconcile", folder / "out", "--json")
    counts = {"received": 4, "reports": 2, "quarantined": 1, "duplicates": 1}
    zeros = dict.fromkeys(
        (
            "records",
            "expired",
            "dismissed",
            "missing",
            "surplus",
            "trimmed",
            "unreadable",
            "uncommitted",
            "waiting",
        ),
        0,
    )
    kinds = {"kpi_report": {"stored": 2, "duplicates": 1, "quarantined": 1}}
    assert (code, json.loads(out)) == (0, counts | zeros | {"kinds": kinds, "problems": []})


def test_a_lost_file_of_quarantine_is_seen_with_the_source(folder: Path, typed: Typed) -> None:
    shutil.rmtree(folder / "out" / "quarantine")
    assert typed("reconcile", folder / "out")[0] == 0
    code, out, err = typed("reconcile", folder / "out", "--input", folder / "a.ndjson")
    assert (code, "does not reconcile: 1 problem" in err) == (1, True)
    assert f"- 1 message of the source without a fate (e.g. archive {line_id(4, BROKEN)})" in out


def test_a_broken_archive_ends_with_one_and_is_named(folder: Path, typed: Typed) -> None:
    whole = gzip.compress((folder / "a.ndjson").read_bytes())
    (folder / "a.ndjson").unlink()
    (folder / "a.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    code, out, _ = typed("reconcile", folder / "out", "--input", folder / "*.gz", "--json")
    verdict = json.loads(out)
    assert (code, verdict["unreadable"]) == (1, 1)
    assert any("a.ndjson.gz could not be read to its end" in problem for problem in verdict["problems"])


def test_what_is_no_output_or_no_archive_is_wrong_use(folder: Path, typed: Typed) -> None:
    code, _, err = typed("reconcile", folder / "gone")
    assert (code, "there is no folder" in err, "kpiflow backfill" in err) == (2, True, True)
    assert typed("reconcile", folder / "out", "--input", "nothing*.ndjson")[0] == 2
    assert typed("parity", folder / "out", folder / "gone")[0] == 2


def test_two_backfills_of_one_archive_are_at_parity(folder: Path, made: Path, typed: Typed) -> None:
    code, out, _ = typed("parity", folder / "out", made / "out", "--identity")
    assert (code, "both hold the same rows" in out) == (0, True)


def test_a_difference_ends_with_one_and_is_explained(folder: Path, made: Path, typed: Typed) -> None:
    shutil.rmtree(folder / "out" / "duplicates")
    code, out, err = typed("parity", folder / "out", made / "out")
    assert (code, "do not hold the same rows: duplicates" in err) == (1, True)
    assert "rows is 0 in A, 1 in B" in out
    code, out, _ = typed("parity", folder / "out", made / "out", "--json")
    found = json.loads(out)
    assert (code, found["equal"], found["tables"]["duplicates"]["only_b"]) == (1, False, 1)


def test_a_file_that_cannot_be_read_ends_parity_with_its_name(folder: Path, made: Path, typed: Typed) -> None:
    path = next((folder / "out" / "duplicates").rglob("*.parquet"))
    path.write_bytes(b"")
    code, _, err = typed("parity", folder / "out", made / "out")
    assert (code, path.name in err) == (1, True)
