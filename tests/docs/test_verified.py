"""The page on what has been run names every kind of output, and tests that exist."""

import re
from pathlib import Path

from pipelines.outputs import SCHEMES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verified.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
][1:]


def test_every_kind_of_output_has_a_row() -> None:
    first = " ".join(row[0] for row in ROWS)
    named = {
        scheme
        for scheme in SCHEMES
        if f"`{scheme}://`" in first or (scheme == "file" and "a folder" in first)
    }
    assert named == set(SCHEMES)


def test_every_row_says_what_was_run_and_by_what() -> None:
    assert [row for row in ROWS if len(row) != 4 or not row[1]] == []


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests|deploy|transforms)/[\w./]+)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_and_the_outputs_lead_to_the_page() -> None:
    assert "docs/verified.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(verified.md)" in (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
