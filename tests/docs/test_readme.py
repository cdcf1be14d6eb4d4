"""The README and the docs cannot drift: their Python runs, their commands exist, their links lead
somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines import cli
from pipelines.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    f"docs/{path.name}": path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))
}
EVERYWHERE = {"--help", "--version", "--config"} | {
    f"--{name.replace('_', '-')}" for name in Settings.model_fields
}


def fenced(language: str) -> list[str]:
    """The README's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def typed() -> list[str]:
    """The commands that the README types, without their prompt."""
    lines = (line for block in fenced("console") for line in block.splitlines())
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def named(page: str) -> Iterator[str]:
    """The commands that a page names in `code` or in a block of it."""
    yield from (" ".join(code.split()) for code in re.findall(r"`(kpiflow [^`]+)`", page))
    yield from re.findall(r"^(?:\$ )?(kpiflow [a-z][^:\n]*)$", page, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small `tour/archive` and `tour/tables`, over midnight."""
    folder = tmp_path_factory.mktemp("readme")
    archive, tables = str(folder / "tour/archive"), str(folder / "tour/tables")
    small = [
        "--reports",
        "2000",
        "--agents",
        "2",
        "--seed",
        "1",
        "--span",
        "3h",
        "--start",
        "2025-10-20T22:00:00Z",
    ]
    assert cli.run(["generate", *small, "--output", archive]) == 0
    assert cli.run(["backfill", "--input", archive, "--output", tables]) == 0
    return folder


@pytest.fixture
def inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the README speaks of is the working directory."""
    monkeypatch.chdir(made)


@pytest.mark.parametrize("code", fenced("python"))
def test_every_python_example_runs(code: str, inside: None, capfd: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capfd.readouterr().out


def test_the_tour_ends_well_command_by_command(inside: None) -> None:
    words = [shlex.split(command)[1:] for command in typed()]
    tour = [command for command in words if command[0] != "generate"]
    assert [cli.run(command) for command in tour] == [0] * len(tour)
    assert {"backfill", "reconcile", "parity", "show", "quarantine", "settings"} <= {
        command[0] for command in tour
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists_with_its_flags(page: str) -> None:
    unknown = [command for command in named(PAGES[page]) if not exists(command)]
    assert unknown == []


def test_every_command_that_the_program_speaks_of_exists_with_its_flags() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for room in ("pipelines", "transforms")
        for path in (ROOT / room).rglob("*.py")
    ]
    spoken = {
        " ".join(code.split()) for source in sources for code in re.findall(r"`(kpiflow [^`]+)`", source)
    }
    assert spoken
    assert [command for command in spoken if not exists(command)] == []


@pytest.mark.parametrize(
    "command", ["kpiflow no", "kpiflow backfill --no", "kpiflow quarantine list|no", "kpiflow show --strict"]
)
def test_a_command_that_does_not_exist_would_be_noticed(command: str) -> None:
    assert not exists(command)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", PAGES[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", PAGES[page], flags=re.MULTILINE)) <= targets


def exists(command: str) -> bool:
    """Whether the program has the command, and the command every flag that is given."""
    if either := re.search(r"\w+(?:\|\w+)+", command):
        return all(exists(command.replace(either[0], word)) for word in either[0].split("|"))
    found: Any = typer.main.get_command(cli.app())
    words = [word for word in command.split()[1:] if word not in ("...", "FILE...")]
    while words and hasattr(found, "commands") and not words[0].startswith("-"):
        found = found.commands.get(words.pop(0))
    if found is None:
        return False
    flags = {flag for parameter in found.params for flag in parameter.opts}
    own = words[: words.index("--")] if "--" in words else words
    return {word.partition("=")[0] for word in own if word.startswith("-")} <= flags | EVERYWHERE
