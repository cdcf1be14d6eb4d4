"""The page on operations holds: its ACL, settings, defaults, flags and commands are those of the program."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines import cli
from pipelines.commands import COMMANDS
from pipelines.settings import Settings
from schemas.tables import TABLES
from transforms.redis.access import ACL, make_rules

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
PAGE = PAGES["docs/operations.md"]


def found(command: str) -> Any:
    """A command of the program."""
    program: Any = typer.main.get_command(cli.app())
    return program.commands[command]


def flags_of(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    for below in getattr(command, "commands", {}).values():
        yield from flags_of(below)


def help_of(command: Any) -> Iterator[str]:
    """What a command says of itself and of its options."""
    yield command.help or ""
    yield from (parameter.help for parameter in command.params if getattr(parameter, "help", None))
    for below in getattr(command, "commands", {}).values():
        yield from help_of(below)


ALL_FLAGS = {flag for name in COMMANDS for flag in flags_of(found(name))} | {
    "--help",
    "--version",
    "--config",
}
BENCHMARKS = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/benchmarks/*.py"))
ALL_FLAGS |= set(re.findall(r'"(--[a-z-]+)"', BENCHMARKS))
ALL_FLAGS |= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}


def test_the_acl_of_a_stream_is_the_list_of_the_code() -> None:
    (shown,) = re.findall(
        r"^ACL SETUSER worker reset on >PASSWORD (.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL
    )
    assert " ".join(shown.split()) == f"{make_rules('stream')} {make_rules('stream --live')}"


def test_the_rules_of_every_other_command_are_the_list_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `kpiflow (\w+)` \| `([^`]*)` \|$", PAGE, flags=re.MULTILINE))
    listed = {use: make_rules(use) for use in ACL if not use.startswith("stream")}
    assert {use: text.replace("\\|", "|") for use, text in rows.items()} == listed


@pytest.mark.parametrize("page", PAGES)
def test_a_default_that_is_named_is_that_of_the_setting(page: str) -> None:
    named = re.findall(r"`(\w+)` \((\d[\d,.]*)\b", PAGES[page])
    said = {name: float(value.replace(",", "")) for name, value in named if name in Settings.model_fields}
    defaults = {name: Settings.model_fields[name].default for name in said}
    defaults |= {
        name: 1 for name in said if name == "file_minutes"
    }  # unless given: 1 for a stream, as the page says
    assert said == defaults


def test_the_table_of_settings_names_most_of_those_of_a_stream() -> None:
    table = PAGE.split("## What each setting trades")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table)) & set(Settings.model_fields)
    assert {
        "read_ms",
        "idle_ms",
        "flush_seconds",
        "checkpoint_seconds",
        "stream_workers",
        "renew_seconds",
        "reread_seconds",
    } <= named


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_and_variable_that_is_named_exists(page: str) -> None:
    spans = re.findall(r"`([^`\n]+)`", PAGES[page])
    flags = {
        flag
        for span in spans
        for flag in re.findall(r"(?:^|[\s(])(--[a-z][a-z0-9-]+)", span)
        if not foreign(span)
    }
    assert flags - ALL_FLAGS == set()
    variables = {name.lower() for name in re.findall(r"\bKPIFLOW_([A-Z][A-Z_]+[A-Z])\b", PAGES[page])}
    assert variables - set(Settings.model_fields) - {"extra_index_url"} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_flags_commands_and_settings_that_exist(command: str) -> None:
    texts = list(help_of(found(command)))
    assert texts
    flags = {flag for text in texts for flag in re.findall(r"--[a-z][a-z0-9-]+", text)}
    assert flags - ALL_FLAGS == set()
    commands = {name for text in texts for name in re.findall(r"`kpiflow (\w+)", text)}
    assert commands <= set(COMMANDS)


def test_settings_speak_of_settings_that_exist() -> None:
    texts = [field.description or "" for field in Settings.model_fields.values()]
    assert all(texts)
    columns = {name for table in TABLES.values() for name in table.schema.names}
    named = {name for text in texts for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text)}
    assert named - set(Settings.model_fields) - columns == set()
    flags = {flag for text in texts for flag in re.findall(r"--[a-z][a-z0-9-]+", text)}
    assert flags <= ALL_FLAGS


def foreign(span: str) -> bool:
    """Whether a span of code is a command of another program."""
    return bool(
        re.match(
            r"(pip|docker|buildah|podman|kubectl|systemd-|logger|gcloud|redis-|apt-get|influx|pytest|python)",
            span,
        )
    )
