"""A count that people read agrees with its noun: "1 row", not "1 rows"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from transforms.core.counts import format_count
from transforms.core.events import EVENTS, Event

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "transforms", "runners", "schemas", "deploy")
NO_NOUNS = {
    "is",
    "has",
    "was",
    "ms",
    "its",
    "this",
    "as",
    "bytes",
    "characters",
    "less",
    "across",
    "keeps",
    "drops",
}
"""Words that end like a plural. A number of bytes or characters that is too large is never 1."""
PLURAL = re.compile(r"(?:more |new |open |whole )?([a-z]+s)\b")
IN_A_TEXT = re.compile(r"\{\w+(?::,)?\} " + PLURAL.pattern)


def is_plural(text: str) -> bool:
    """Whether what follows a count, behind a space, is a plural noun."""
    found = PLURAL.match(text[1:]) if text.startswith(" ") else None
    return found is not None and found[1] not in NO_NOUNS


def is_count(value: ast.FormattedValue) -> bool:
    """A number that is grouped by thousands, or the length of something, or called a count."""
    shown = ast.unparse(value.value)
    spec = ast.unparse(value.format_spec) if value.format_spec else ""
    return spec == "f','" or bool(re.search(r"^(len|sum)\(|\.(total|sum)\(\)$|count$", shown))


def find_plurals(tree: ast.AST) -> Iterator[int]:
    """The lines of f-strings in which a plural noun follows a count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:]):
                is_pair = isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)
                if is_pair and is_count(value) and is_plural(text.value):
                    yield value.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_no_text_has_a_plural_noun_for_any_count(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / package).rglob("*.py")
        for line in find_plurals(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == [], "use format_count of transforms.core.counts"


def test_no_event_has_a_plural_noun_for_any_count() -> None:
    found = {
        name: match[0]
        for name, event in EVENTS.items()
        for match in IN_A_TEXT.finditer(event.text)
        if match[1] not in NO_NOUNS
    }
    assert found == {}, "write {count:noun}"


def test_the_rule_finds_a_plural_noun() -> None:
    texts = ['f"{len(a)} files"', 'f"{n:,} more rows of {b}"', 'f"{n:,} entries"']
    fine = ['f"{len(a)} is"', 'f"{name} differs"', 'f"{n:,} of them"', "f\"{format_count(n, 'row')} of\""]
    assert [list(find_plurals(ast.parse(text))) for text in texts] == [[1]] * 3
    assert [list(find_plurals(ast.parse(text))) for text in fine] == [[]] * 4


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1200, "entry", "1,200 entries"),
        (1, "entry", "1 entry"),
        (2, "day", "2 days"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert format_count(count, noun) == text


def test_the_text_of_an_event_agrees_with_its_counts() -> None:
    event = Event("test_counts", "{done} of {total:entry}, {share:.1f} {name:s}")
    del EVENTS["test_counts"]
    assert event.format({"done": 1, "total": 1, "share": 0.5, "name": "a"}) == "1 of 1 entry, 0.5 a"
    assert event.format({"done": 1, "total": 2, "share": 0.5, "name": "a"}) == "1 of 2 entries, 0.5 a"
