"""How the documents of a block are written, as a regular expression: what finds the odd ones among many that break a parser.

A document fits when each name stands at most once, in the order that the block's own documents show, with a value of its type. To
fit is no proof of anything and not to fit no fault; it only decides which rows are worth parsing together.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.compiler import Node

_STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?"
_OPAQUE = rf"{_NUMBER}|{_STRING}|true|false|\{{[^{{}}]*\}}|\[[^\[\]]*\]"
_SCALARS = {"number": _NUMBER, "integer": _NUMBER, "string": _STRING, "boolean": "true|false"}


def pattern(root: Node, samples: Iterable[Mapping[str, Any]]) -> str:
    """A pattern (RE2) for documents of the schema that are written as the samples are, with a newline behind."""
    return f"^{_struct(root, list(samples))}\\n$"


def _struct(node: Node, samples: list[Mapping[str, Any]]) -> str:
    members = []
    for child in _in_order(node, samples):
        inner = [each[child.name] for each in samples if isinstance(each.get(child.name), dict)]
        members.append(f'(?:,? *"{re.escape(child.name)}" *: *(?:null|{_value(child, inner)}) *)?')
    return rf"\{{ *{''.join(members)}\}}"


def _in_order(node: Node, samples: list[Mapping[str, Any]]) -> list[Node]:
    """A struct's children, those first that stand before most others more often than behind them."""
    places = [{name: place for place, name in enumerate(document)} for document in samples]

    def precedes(first: Node, second: Node) -> bool:
        both = [(each[first.name], each[second.name]) for each in places if first.name in each and second.name in each]
        return 2 * sum(one < other for one, other in both) > len(both)

    wins = {child.name: sum(precedes(child, other) for other in node.children) for child in node.children}
    return sorted(node.children, key=lambda child: -wins[child.name])


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
