"""What each column of an exported file means: the texts of `docs/columns.md`, as data.

`columns.json` holds them. `python -m pipelines.export.dictionary` writes it again from the page; a test
compares the two.
"""

import json
import re
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

FIELDS = ("name", "type", "meaning", "unit", "range", "null_when")
"""The cells of a row of the page."""
LABEL = "label_"
"""How the names of labels begin: columns of the task's result, which no feature knows."""
TABLES = ("kpi_reports", "features", "results")
_HEAD = "| column | type | formula or meaning | unit | range | null when |"
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@cache
def load_texts() -> dict[str, dict[str, dict[str, str]]]:
    """The texts of each column (FIELDS), by table and name. A field of a struct is `column.field`."""
    data = resources.files("pipelines.export").joinpath("columns.json").read_text(encoding="utf-8")
    texts: dict[str, dict[str, dict[str, str]]] = json.loads(data)
    return texts


def parse_page(page: str) -> dict[str, dict[str, dict[str, str]]]:
    """`load_texts`, read from the text of `docs/columns.md`; links are their words."""
    found = {}
    for table in TABLES:
        section = page.split(f"\n## {table}\n")[1].split("\n## ")[0]
        lines = section.split(f"\n{_HEAD}\n")[1].split("\n\n")[0].splitlines()[1:]
        rows = [[_LINK.sub(r"\1", cell.strip()) for cell in line.strip("|").split("|")] for line in lines]
        found[table] = {row[0]: dict(zip(FIELDS, row)) for row in rows}
    return found


def describe(schema: pa.Schema) -> list[dict[str, Any]]:
    """What each column means, from the metadata of its field: dicts of FIELDS, in the order of the schema."""
    return [
        {"name": field.name} | {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        for field in schema
    ]


def add_texts(field: pa.Field, texts: dict[str, str]) -> pa.Field:
    """The field with texts (some of FIELDS, but the name) as its metadata."""
    return field.with_metadata({name: text for name, text in texts.items() if name != "name" and text})


def _write(root: Path) -> None:
    page = (root / "docs" / "columns.md").read_text(encoding="utf-8")
    target = root / "pipelines" / "export" / "columns.json"
    target.write_text(json.dumps(parse_page(page), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
