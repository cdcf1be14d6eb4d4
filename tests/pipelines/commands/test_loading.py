"""A command's modules are loaded when it is asked for, so that the light ones answer at once."""

import subprocess
import sys

import pytest

from pipelines.cli import run
from pipelines.commands import COMMANDS

HEAVY = ("apache_beam", "pyarrow", "pandas")


def loaded(*words: str) -> set[str]:
    """What a new process has loaded of commands and HEAVY packages after a command."""
    code = f"import sys; from pipelines.cli import run; run({list(words)!r}); "
    code += "print(*sys.modules, file=sys.stderr)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stderr.split()
    return {name for name in modules if name in HEAVY or name.startswith("pipelines.commands.")}


def test_help_loads_no_command() -> None:
    assert loaded("--help") == set()


def test_settings_load_no_data_packages() -> None:
    assert loaded("settings") == {"pipelines.commands.settings"}


@pytest.mark.parametrize("name", ["derive", "features", "quality", "query", "recommend", "show", "trends"])
def test_commands_that_read_tables_need_no_beam(name: str) -> None:
    assert "apache_beam" not in loaded(name, "--help")


def test_help_lists_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [line for name, line in COMMANDS.items() if f"{name} {line}" not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_can_be_loaded_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    assert f"kpiflow {name} [OPTIONS]" in capsys.readouterr().out


def test_a_mistyped_command_is_named_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backfil"]) == 2
    assert "Did you mean 'backfill'?" in capsys.readouterr().err
