"""The rules of language: names, words of docs, help texts and docstrings, and the length of files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "transforms", "pipelines", "runners")
CODE = [path for room in (*ROOMS, "examples", "deploy") for path in sorted((ROOT / room).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "stuff", "base"}
IDIOM = re.compile(
    r"\b(mend(s|ed|ing)?|lest|told|stood|befalls?|foretells?|vouch(es)?|whoever|comes? to lie|lies|"
    r"stands? (there|nowhere|alone|twice|beside)|is away|goes away|one's own|lost or twice|looked over)\b",
    re.IGNORECASE,
)
"""Words of an older idiom of this project; the glossary has the words for the same things."""
OLD_WORDS = {
    "transforms/envelopes/envelope_lines.py",
    "transforms/sources/archives/archive_reader.py",
    "transforms/sources/archives/envelope_chunks.py",
    "transforms/sources/redis/offsets.py",
}
"""Files that still have such words."""
LONGEST_FILE = 300
LONG_FILES = {"pipelines/setting_groups.py"}
"""Files that may be longer, because each is one list."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef | ast.Module]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            yield node


def texts(path: Path) -> Iterator[str]:
    """The docstrings and help texts of a module, or the text of a page without its blocks of code."""
    if path.suffix == ".md":
        yield re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        return
    for node in definitions(path):
        yield ast.get_docstring(node) or ""
        for below in ast.walk(node) if isinstance(node, ast.Module) else ():
            if isinstance(below, ast.keyword) and below.arg in ("help", "description"):
                yield ast.unparse(below.value)


@pytest.mark.parametrize("path", [path for path in [*CODE, *PAGES] if name(path) not in OLD_WORDS], ids=name)
def test_texts_use_plain_words(path: Path) -> None:
    assert [found[0] for text in texts(path) for found in IDIOM.finditer(text)] == []


@pytest.mark.parametrize("path", [path for path in CODE if "deploy" not in path.parts], ids=name)
def test_names_say_something(path: Path) -> None:
    public = [node.name for node in definitions(path) if not isinstance(node, ast.Module)]
    words = {word for each in (path.stem, *public) for word in re.findall(r"[A-Z]?[a-z]+", each)}
    assert {word.lower() for word in words} & EMPTY_NAMES == set()


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE or name(path) in LONG_FILES
