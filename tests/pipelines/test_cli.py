"""The command line as it is typed: what is taken out of the words, and how a command ends."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer

from pipelines import cli
from pipelines.cli import Invocation, run, split
from pipelines.commands import COMMANDS, SETTINGS_USED
from pipelines.failures import CheckFailed, RunFailed, WrongUse
from pipelines.setting_options import show_settings
from pipelines.settings import Settings

TYPED = [
    [],
    *([name] for name in COMMANDS),
    ["quarantine", "list"],
    ["quarantine", "show"],
    ["quarantine", "replay"],
]


def test_settings_and_config_are_taken_out_of_the_words() -> None:
    words, invocation = split(
        ["show", "--iqr-factor", "2.5", "out", "--shards=4", "--config", "k.toml", "--json"]
    )
    assert words == ["show", "out", "--json"]
    assert invocation == Invocation({"iqr_factor": "2.5", "shards": "4"}, Path("k.toml"), ())


def test_what_follows_two_dashes_is_beams() -> None:
    words, invocation = split(
        ["backfill", "--output", "out", "--", "--direct_num_workers=2", "--shards", "9", "--"]
    )
    assert words == ["backfill", "--output", "out"]
    assert invocation == Invocation({}, None, ("--direct_num_workers=2", "--shards", "9", "--"))


def test_several_values_may_follow_an_input() -> None:
    words, _ = split(["backfill", "--input", "a", "b", "--output", "out", "--input", "c"])
    assert words == ["backfill", "--input", "a", "--input", "b", "--output", "out", "--input", "c"]


def test_several_values_follow_no_other_flag() -> None:
    assert split(["parity", "--json", "a", "b"])[0] == ["parity", "--json", "a", "b"]
    assert split(["reconcile", "--input", "a", "--shards", "2", "b"])[0] == [
        "reconcile",
        "--input",
        "a",
        "--input",
        "b",
    ]


@pytest.mark.parametrize("words", [["--shards"], ["--config"], ["--shards="], ["show", "out", "--config="]])
def test_a_setting_without_a_value_is_wrong_use(words: list[str]) -> None:
    with pytest.raises(WrongUse, match="needs a value"):
        split(words)


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_help_is_there_for_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    assert f"Usage: kpiflow {' '.join(words)}".strip() in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [words for words in TYPED if words], ids=" ".join)
def test_the_help_of_a_command_shows_the_settings_it_uses_in_the_panel_of_their_group(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if words in (["quarantine"], ["audit"], ["keys"]):
        pytest.skip("a group of commands, each of which shows them")
    run([*words, "--help"])
    panels = re.split(r"^╭─ ", capsys.readouterr().out, flags=re.MULTILINE)
    shown = {
        panel.partition(" ─")[0]: set(re.findall(r"^│ (--[\w-]+)", panel, re.MULTILINE)) for panel in panels
    }
    assert "--config" in shown["Settings"]
    assert set(SETTINGS_USED) <= set(COMMANDS)
    groups = {group.title: names for group, names in Settings.groups().items()}
    used = SETTINGS_USED.get(words[0], ())
    assert {title for title in groups if f"Settings: {title}" in shown} == set(used)
    for title in used:
        assert shown[f"Settings: {title}"] == {f"--{name.replace('_', '-')}" for name in groups[title]}


def test_a_command_gets_its_own_options_and_no_settings() -> None:
    given: list[str] = []

    def command(name: Annotated[str, typer.Option()] = "") -> None:
        given.append(name)

    program = typer.Typer()
    program.command()(show_settings(command, "backfill"))
    program(["--name", "n", "--shards", "2"], standalone_mode=False)
    assert given == ["n"]


def test_the_help_wraps_each_paragraph_as_a_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run(["compare", "--help"])
    assert "stays below --alpha over all looks, metrics and variants." in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    assert set(re.findall(r"^│ ([a-z]+) ", capsys.readouterr().out, flags=re.MULTILINE)) == set(COMMANDS)


def test_a_table_in_a_pipe_has_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, field in Settings.model_fields.items():
        assert sum(line.split()[:1] == [name] and (field.description or "") in line for line in lines) == 1


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"kpiflow {version('kpiflow')}\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["show"],
        ["show", "--bogus", "out"],
        ["quarantine"],
        ["quarantine", "bogus", "out"],
        ["backfill", "--input", "x"],
        ["settings", "--shards", "none"],
        ["settings", "--shards", "0"],
        ["settings", "--config", "gone.toml"],
        ["settings", "--shards"],
        ["show", "gone"],
        ["validate", "gone*.ndjson"],
    ],
)
def test_wrong_use_ends_with_2(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs a command that ends with an exception: the exit code."""

    def ending_(end: BaseException) -> int:
        def fail() -> None:
            raise end

        monkeypatch.setattr(cli, "_load_command", lambda name: fail)
        return run(["settings"])

    return ending_


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (CheckFailed("no"), 1),
        (WrongUse("no"), 2),
        (RunFailed("no"), 3),
        (ZeroDivisionError("no"), 3),
        (OSError("no"), 3),
        (KeyboardInterrupt(), 130),
        (SystemExit(7), 7),
        (SystemExit(), 0),
    ],
)
def test_each_end_has_its_code(ending: Callable[[BaseException], int], end: BaseException, code: int) -> None:
    assert ending(end) == code


def test_a_failure_names_cause_and_mend_and_shows_no_traceback(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    ending(CheckFailed("[3] rows differ", "look [here]"))
    assert capsys.readouterr() == ("", "kpiflow: [3] rows differ\n  look [here]\n")


def test_an_unexpected_error_shows_its_traceback_and_its_first_line_last(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    ending(ZeroDivisionError("first line\nsecond line"))
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("kpiflow: the run failed: first line\n")


def test_main_exits_with_the_code_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kpiflow", "bogus"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
