"""The schemas by name and version: files `<name>.v<version>.json` beside this module, which never change."""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from schemas.readers.compiler import Node, compile_schema


@dataclass(frozen=True)
class Schema:
    """A schema as written, and compiled."""

    name: str
    version: int
    document: dict[str, Any]
    root: Node

    def bounded(self, custom_metric_limit: float) -> "Schema":
        """This schema with a limit, below 2**53, for the absolute value of each custom metric, if any."""
        document = deepcopy(self.document)
        metrics = document.get("properties", {}).get("custom_metrics")
        if metrics is None:
            return self
        metric = metrics["additionalProperties"]
        metric |= {"minimum": -custom_metric_limit, "maximum": custom_metric_limit}
        return replace(self, document=document, root=compile_schema(document))


class UnknownSchema(LookupError):  # noqa: N818 (named for what is wrong)
    """No such name or version; `str()` lists those there are."""


@cache
def list_versions() -> dict[str, tuple[int, ...]]:
    """The versions of each schema, ascending."""
    found: dict[str, list[int]] = {}
    for entry in resources.files("schemas").iterdir():
        stem, dot, suffix = entry.name.partition(".v")
        if dot and suffix.endswith(".json"):
            found.setdefault(stem, []).append(int(suffix.removesuffix(".json")))
    return {name: tuple(sorted(numbers)) for name, numbers in sorted(found.items())}


@cache
def load(name: str, version: int | None = None) -> Schema:
    """The schema of a name, in its newest version unless one is given.

    Raises:
        UnknownSchema: no such schema.
        schemas.readers.compiler.UnsupportedKeyword: the file uses a keyword that is not compiled.
    """
    numbers = list_versions().get(name, ())
    number = version if version is not None else max(numbers, default=0)
    if number not in numbers:
        known = ", ".join(f"{each} v{n}" for each, of in list_versions().items() for n in of)
        raise UnknownSchema(f"no schema {name} v{number}; there are {known}")
    document = json.loads(
        resources.files("schemas").joinpath(f"{name}.v{number}.json").read_text(encoding="utf-8")
    )
    return Schema(name, number, document, compile_schema(document))
