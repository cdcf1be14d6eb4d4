"""What each column of an exported file means: the texts of `docs/columns.md`, as data.

`columns.json` holds them. `python -m tests.docs.column_texts` writes it again from the page; a test compares
the two.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import pyarrow as pa

FIELDS = ("name", "type", "meaning", "unit", "range", "null_when")
"""The cells of a row of the page."""
LABEL = "label_"
"""How the names of labels begin: columns of the task's result, which no feature knows."""


@cache
def load_texts() -> dict[str, dict[str, dict[str, str]]]:
    """The texts of each column (FIELDS), by table and name. A field of a struct is `column.field`."""
    data = resources.files("pipelines.export").joinpath("columns.json").read_text(encoding="utf-8")
    texts: dict[str, dict[str, dict[str, str]]] = json.loads(data)
    return texts


def describe(schema: pa.Schema) -> list[dict[str, Any]]:
    """What each column means, from the metadata of its field: dicts of FIELDS, in the order of the schema."""
    return [
        {"name": field.name} | {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        for field in schema
    ]


def add_texts(field: pa.Field, texts: dict[str, str]) -> pa.Field:
    """The field with texts (some of FIELDS, but the name) as its metadata."""
    return field.with_metadata({name: text for name, text in texts.items() if name != "name" and text})
