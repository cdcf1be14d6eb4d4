"""A pattern of how the documents of a block are written: it finds the odd ones that may break Arrow's parser.

A document matches if it has each name at most once, in the order that the block's own documents have, with a
value of its type. A match proves nothing, and a document without one may be valid: the pattern only decides
which rows are parsed together.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from schemas.readers.compiler import Node

_STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?"
_OPAQUE = rf"{_NUMBER}|{_STRING}|true|false|\{{[^{{}}]*\}}|\[[^\[\]]*\]"
_MOST_FOREIGN = 16
_LONG_NAME = 100
_SCALARS = {"number": _NUMBER, "integer": _NUMBER, "string": _STRING, "boolean": "true|false"}


def build_pattern(root: Node, samples: Iterable[Mapping[str, Any]]) -> str:
    """A pattern (RE2) for documents that are written as the samples are, with a newline at the end."""
    return f"^{_match_struct(root, list(samples))}\\n$"


def _match_struct(node: Node, samples: list[Mapping[str, Any]]) -> str:
    members = []
    names = _order_names(node, samples)
    for name in names:
        inner = [each[name] for each in samples if isinstance(each.get(name), dict)]
        value = _match_value(node.by_name[name], inner) if name in node.by_name else _OPAQUE
        members.append(f'(?:,? *"{_shorten_name(name, names)}" *: *(?:null|{value}) *)?')
    return rf"\{{ *{''.join(members)}\}}"


def _order_names(node: Node, samples: list[Mapping[str, Any]]) -> list[str]:
    """A struct's names and others that samples have, in the order of as many samples as possible."""
    seen = Counter(
        name
        for document in samples
        for name in document
        if name not in node.by_name and len(name) <= _LONG_NAME
    )
    names = {*node.by_name, *(name for name, _ in seen.most_common(_MOST_FOREIGN))}
    written = Counter(tuple(name for name in document if name in names) for document in samples)
    before: dict[str, set[str]] = {name: set() for name in names}
    order = sorted(names)
    for sequence, _ in written.most_common():
        more = {name: set(earlier) for name, earlier in before.items()}
        for first, second in pairwise(sequence):
            more[second].add(first)
        try:
            order = list(TopologicalSorter(more).static_order())
            before = more
        except CycleError:
            continue
    return order


def _shorten_name(name: str, names: Iterable[str]) -> str:
    """The name up to the letter that distinguishes it: each further letter costs the matcher a state."""
    others = [other for other in names if other != name]
    for length in range(1, len(name) + 1):
        if not any(other.startswith(name[:length]) for other in others):
            return re.escape(name[:length]) + '[^"]*'
    return re.escape(name)


def _match_value(node: Node, samples: list[Mapping[str, Any]]) -> str:
    if node.kind == "struct":
        return _match_struct(node, samples)
    if node.kind == "array":
        return rf"\[{_match_list(_match_value(node.children[0], []))}\]"
    if node.kind == "map":
        return rf"\{{{_match_list(f'{_STRING} *: *(?:{_match_value(node.children[0], [])})')}\}}"
    return _SCALARS.get(node.kind, _OPAQUE)


def _match_list(item: str) -> str:
    return f" *(?:(?:{item}) *(?:, *(?:{item}) *)*)?"
