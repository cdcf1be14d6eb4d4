"""The tables of columns in docs/columns.md, as data. As a program, it writes pipelines/export/columns.json.

python -m tests.docs.column_texts
"""

import json
import re
from pathlib import Path

from pipelines.export.dictionary import FIELDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")
HEAD = "| column | type | formula or meaning | unit | range | null when |"
EXPORTED = ("kpi_reports", "features", "results")
"""The tables whose columns an export has."""
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def read_section(title: str) -> str:
    """The page's text below a `##` heading, up to the next."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def list_cells(table: str) -> list[list[str]]:
    """The cells of each row of a table's columns."""
    lines = read_section(table).split(f"\n{HEAD}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def make_texts() -> dict[str, dict[str, dict[str, str]]]:
    """What `load_texts` should give; links are their words."""
    return {
        table: {
            row[0]: {name: _LINK.sub(r"\1", cell) for name, cell in zip(FIELDS, row)}
            for row in list_cells(table)
        }
        for table in EXPORTED
    }


if __name__ == "__main__":
    text = json.dumps(make_texts(), indent=1, ensure_ascii=False) + "\n"
    (ROOT / "pipelines" / "export" / "columns.json").write_text(text, encoding="utf-8")
