"""Refused messages that were corrected at their source are dismissed: once, in every output, whatever happens
in between."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import run
from schemas.tables import QUARANTINED
from tests.builders import line_id, report
from tests.integration.archives import Typed, on_disk, rows, write
from transforms.storage.local_folder import LocalFolder

BROKEN = [json.dumps(report(2, accuracy=7)).encode(), b"\0\0" + json.dumps(report(3)).encode()]
LINES = [json.dumps(report(1)).encode(), *BROKEN, json.dumps(report(4)).encode()]
NAMES = [f"archive/{line_id(number, line)}" for number, line in enumerate(BROKEN, start=2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output in two folders of a file whose broken lines were then corrected, and which was
    read again."""
    folder = tmp_path_factory.mktemp("made")
    outputs = ["--output", str(folder / "out"), "--output", str(folder / "copy")]
    corrected = [LINES[0], json.dumps(report(2)).encode(), json.dumps(report(3)).encode(), LINES[3]]
    for lines in (LINES, corrected):
        assert run(["backfill", "--input", str(write(folder / "a.ndjson", lines)), *outputs]) == 0
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def reconciled(output: Path, typed: Typed) -> tuple[int, dict[str, int]]:
    code, out, _ = typed("reconcile", output, "--input", output.with_name("a.ndjson"), "--json")
    counts = json.loads(out)
    return code, {
        name: counts[name] for name in ("received", "reports", "quarantined", "dismissed", "surplus")
    }


def test_only_the_lines_that_were_changed_are_surplus_until_they_are_dismissed(
    output: Path, typed: Typed
) -> None:
    counts = {"received": 4, "reports": 4, "quarantined": 2, "dismissed": 0, "surplus": 2}
    assert reconciled(output, typed) == (1, counts)
    code, out, _ = typed(
        "quarantine", "dismiss", output, "--id", NAMES[0], "--id", NAMES[1], "--reason", "corrected"
    )
    assert (code, out) == (0, "2 dismissed, 0 not open in quarantine\n")
    assert reconciled(output, typed) == (0, counts | {"quarantined": 0, "dismissed": 2, "surplus": 0})
    assert typed("quarantine", "list", output, "--json")[1] == "[]\n"


def test_a_dismissed_row_keeps_its_bytes_the_first_reason_and_the_first_time(
    output: Path, typed: Typed
) -> None:
    before = {row["message_id"]: row for row in rows(output, QUARANTINED)}
    assert typed("quarantine", "dismiss", output, "--id", NAMES[0], "--reason", "corrected")[0] == 0
    (row,) = (row for row in rows(output, QUARANTINED) if row["resolution"])
    closed = {
        "resolution": "dismissed",
        "dismissed_because": "corrected",
        "dismissed_at": row["dismissed_at"],
        "revision": 2,
    }
    assert row["dismissed_at"] is not None
    assert row == before[row["message_id"]] | closed
    files = on_disk(output)
    code, out, _ = typed("quarantine", "dismiss", output, "--id", NAMES[0], "--reason", "another")
    assert (code, out) == (0, "0 dismissed (1 were dismissed before), 0 not open in quarantine\n")
    assert on_disk(output) == files


def test_reading_the_broken_file_again_opens_nothing(output: Path, typed: Typed) -> None:
    assert typed("quarantine", "dismiss", output, "--id", NAMES[0], "--reason", "corrected")[0] == 0
    before = rows(output, QUARANTINED)
    assert (
        typed("backfill", "--input", write(output.with_name("b.ndjson"), LINES), "--output", output)[0] == 0
    )
    assert rows(output, QUARANTINED) == before


def test_an_export_names_the_messages_as_well(output: Path, typed: Typed) -> None:
    exported = output.with_name("refused.ndjson")
    assert typed("quarantine", "show", output, "--export", exported)[0] == 0
    assert typed("quarantine", "dismiss", output, "--input", exported, "--reason", "corrected")[0] == 0
    assert {row["resolution"] for row in rows(output, QUARANTINED)} == {"dismissed"}


def test_a_dismissal_that_dies_before_the_second_output_is_completed_by_another(
    output: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = output.with_name("copy")
    words = ["quarantine", "dismiss", output, "--also", copy, "--id", NAMES[0]]
    write_file, written = LocalFolder.put, []

    def die_at_the_copy(folder: LocalFolder, *arguments: Any) -> Any:
        if folder.path == copy:
            raise RuntimeError("killed")
        written.append(folder.path)
        return write_file(folder, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "put", die_at_the_copy)
        assert typed(*words, "--reason", "corrected")[0] == 3
    assert output in written
    assert typed(*words, "--reason", "corrected")[0] == 0
    assert rows(copy, QUARANTINED) == rows(output, QUARANTINED)
    assert typed("parity", output, copy, "--identity")[0] == 0


def test_what_is_not_open_is_named(output: Path, typed: Typed) -> None:
    code, out, err = typed(
        "quarantine", "dismiss", output, "--id", NAMES[0], "--id", "archive/none", "--reason", "x"
    )
    assert (code, "1 dismissed, 1 not open" in out, "not open in quarantine: archive/none" in err) == (
        1,
        True,
        True,
    )
    assert typed("quarantine", "dismiss", output, "--reason", "x")[0] == 2
