"""The roles, and the file that says which certificate has which.

[[subject]]
name = "dashboard"                          # as the audit calls it
issuer = "CN=Layer 5 CA,O=Example"          # the issuer of its certificate, as RFC 4514 writes it
san = "DNS:dashboard.layer5.example"        # one subject alternative name: DNS:, URI:, EMAIL: or IP:
role = "kpi-consumer"
restricted = ["kpi_reports"]                # tables whose restricted columns it may see; may be left out
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.access import CLASSES, AccessClass

UNKNOWN = "unknown"
"""The action of a path that no route has: the answer is 404."""
_READ = frozenset({UNKNOWN, "page", "list queries", "query", "read the document"})


@dataclass(frozen=True)
class Role:
    """What a role may do, and the most closed class of columns that it may see without a grant."""

    actions: frozenset[str]
    level: AccessClass


ROLES: Mapping[str, Role] = {
    "monitoring": Role(_READ | {"metrics"}, AccessClass.PUBLIC),
    "kpi-consumer": Role(_READ | {"status", "export", "stream"}, AccessClass.INTERNAL),
    "optimization-admin": Role(
        _READ | {"metrics", "status", "export", "stream", "mark"}, AccessClass.CONFIDENTIAL
    ),
}
"""The roles by name. An action that a role does not name is refused."""
_NAMES = ("DNS", "URI", "EMAIL", "IP")
_CASELESS = ("DNS", "EMAIL", "IP")
_KEYS = {"name", "issuer", "san", "role", "restricted"}


@dataclass(frozen=True)
class KnownSubject:
    """A subject of the file."""

    name: str
    role: str
    grants: frozenset[str]


Subjects = Mapping[tuple[str, str], KnownSubject]
"""The subjects of a file, by issuer and alternative name."""


def read_subjects(path: Path) -> Subjects:
    """The subjects of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it must be; the text says where.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if set(document) != {"subject"} or not isinstance(document["subject"], list):
        raise ValueError("it must contain [[subject]] and nothing else")
    found: dict[tuple[str, str], KnownSubject] = {}
    for number, entry in enumerate(document["subject"], 1):
        try:
            key, subject = _parse_entry(entry)
        except ValueError as error:
            raise ValueError(f"subject {number}: {error}") from error
        if key in found:
            raise ValueError(f"subject {number}: {key[1]} of {key[0]} has a role already")
        found[key] = subject
    return found


def _parse_entry(entry: Any) -> tuple[tuple[str, str], KnownSubject]:
    problems = list(_find_problems(entry))
    if problems:
        raise ValueError("; ".join(problems))
    kind, _, name = entry["san"].partition(":")
    grants = frozenset(entry.get("restricted", ()))
    name = name.lower() if kind in _CASELESS else name
    return (entry["issuer"], f"{kind}:{name}"), KnownSubject(entry["name"], entry["role"], grants)


def _find_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield "it is not a table"
        return
    if unknown := set(entry) - _KEYS:
        yield f"{', '.join(sorted(unknown))} has no meaning here"
    texts = {name: entry.get(name) for name in ("name", "issuer", "san", "role")}
    if missing := [name for name, value in texts.items() if not isinstance(value, str) or not value]:
        yield f"it needs {', '.join(missing)}"
        return
    if texts["role"] not in ROLES:
        yield f"the role {texts['role']} does not exist; there are {', '.join(ROLES)}"
    if (texts["san"] or "").partition(":")[0] not in _NAMES:
        yield f"san must begin with {', '.join(f'{kind}:' for kind in _NAMES)}"
    tables = entry.get("restricted", [])
    if not isinstance(tables, list) or any(
        not isinstance(each, str) or each not in CLASSES for each in tables
    ):
        yield f"restricted must list tables: {', '.join(CLASSES)}"
