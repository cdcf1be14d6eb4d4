"""How the documents of a block are written, as a regular expression: what finds the odd ones among many that break a parser.

A document fits when each name stands at most once, in the order that the block's own documents show, with a value of its type. To
fit is no proof of anything and not to fit no fault; it only decides which rows are worth parsing together.
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
    """A pattern (RE2) for documents of the schema that are written as the samples are, with a newline behind."""
    return f"^{_struct(root, list(samples))}\\n$"


def _struct(node: Node, samples: list[Mapping[str, Any]]) -> str:
    members = []
    names = _in_order(node, samples)
    for name in names:
        inner = [each[name] for each in samples if isinstance(each.get(name), dict)]
        value = _value(node.by_name[name], inner) if name in node.by_name else _OPAQUE
        members.append(f'(?:,? *"{_beginning(name, names)}" *: *(?:null|{value}) *)?')
    return rf"\{{ *{''.join(members)}\}}"


def _in_order(node: Node, samples: list[Mapping[str, Any]]) -> list[str]:
    """A struct's names and those that the samples have beside them, in an order that as many samples as possible keep."""
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


def _beginning(name: str, names: Iterable[str]) -> str:
    """The name up to the letter that tells it from the others: each further one would cost the matcher a state."""
    others = [other for other in names if other != name]
    for length in range(1, len(name) + 1):
        if not any(other.startswith(name[:length]) for other in others):
            return re.escape(name[:length]) + '[^"]*'
    return re.escape(name)


def _value(node: Node, samples: list[Mapping[str, Any]]) -> str:
    if node.kind == "struct":
        return _struct(node, samples)
    if node.kind == "array":
        return rf"\[{_listed(_value(node.children[0], []))}\]"
    if node.kind == "map":
        return rf"\{{{_listed(f'{_STRING} *: *(?:{_value(node.children[0], [])})')}\}}"
    return _SCALARS.get(node.kind, _OPAQUE)


def _listed(item: str) -> str:
    return f" *(?:(?:{item}) *(?:, *(?:{item}) *)*)?"
