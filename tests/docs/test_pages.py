"""The README and the docs are true: commands print what a page shows, Python runs, names and links exist."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines import cli
from pipelines.settings import Settings

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
START = "docs/getting-started.md"
TYPED = ["README.md", START, "docs/backfill.md", "docs/quarantine.md", "docs/queries.md", "docs/context.md"]
EVERYWHERE = {"--help", "--version", "--config"} | {
    f"--{name.replace('_', '-')}" for name in Settings.model_fields
}


def fenced(page: str, language: str) -> list[str]:
    """A page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.MULTILINE | re.DOTALL)


def typed(page: str) -> Iterator[tuple[str, list[str]]]:
    """The commands that a page types, each with the lines that it shows of what they print."""
    for block in fenced(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, [line for line in shown if line != "..."]


def named(page: str) -> Iterator[str]:
    """The commands that a page names in `code` or in a block of it."""
    yield from (" ".join(code.split()) for code in re.findall(r"`(kpiflow [^`]+)`", page))
    for block in re.findall(r"^```\w*\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^(?:\$ )?(kpiflow [a-z][^:\n]*)$", block, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tour/archive` and `tour/tables`, made by the first two commands of the start page."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for command, _ in list(typed(START))[:2]:
            assert cli.run(shlex.split(command)[1:]) == 0
    return folder


@pytest.fixture
def inside(tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of that folder is the working directory."""
    shutil.copytree(tour, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED)
def test_every_command_prints_what_the_page_shows_and_then_every_program_runs(
    page: str, inside: None, capfd: pytest.CaptureFixture[str]
) -> None:
    for command, shown in typed(page):
        capfd.readouterr()
        if command.startswith("kpiflow "):
            # A page shows the complaint of a check that finds something.
            code = int(any(line.startswith("kpiflow: ") for line in shown))
            assert cli.run(shlex.split(command)[1:]) == code, command
        else:
            subprocess.run(command, shell=True, check=True)
        printed = " ".join("".join(capfd.readouterr()).split())
        assert [line for line in shown if not re.search(pattern(line), printed)] == [], command
    for code in fenced(page, "python"):
        capfd.readouterr()
        exec(compile(code, page, "exec"), {})
        assert capfd.readouterr().out


def pattern(line: str) -> str:
    """A line that is shown, as an expression: `...` stands for anything, blanks for any blanks."""
    escaped = re.escape(" ".join(line.split()))
    return escaped.replace(r"\ \.\.\.", ".*").replace(r"\.\.\.", ".*")


def test_the_pages_type_the_commands_of_a_first_hour() -> None:
    words = {shlex.split(command)[1] for page in TYPED for command, _ in typed(page)}
    assert {"generate", "backfill", "reconcile", "show", "validate", "parity", "quarantine"} <= words
    assert {"quality", "features"} <= words


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


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    rooms = "schemas|transforms|pipelines|runners|tests|docs|deploy|examples"
    paths = re.findall(rf"`((?:{rooms})/[\w./-]+)`", PAGES[page])
    assert [path for path in paths if not (ROOT / path).exists()] == []


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
