"""The console script `kpiflow`: reads the command line, runs one command, turns every failure into an exit
code.

Three things are taken out of the arguments before the command gets them, because they belong to every
command: the settings (each is a flag, `--iqr-factor 2.5`), `--config FILE`, and what follows `--`, which is
passed on to Beam.
"""

import gc
import io
import logging
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.command_log import follow_command
from pipelines.commands import COMMANDS
from pipelines.console import SafeFormatter, err, style_head
from pipelines.failures import Failure, RunFailed, WrongUse
from pipelines.setting_options import show_settings
from pipelines.settings import PREFIX, Settings, SettingsError, load
from transforms.core.errors import Refused
from transforms.core.events import is_json, log_as_json

MANY = frozenset({"--input", "--stream", "--encoding"})
"""Options that take several values after one flag, as a shell's glob gives them."""
FLAGS = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
"""The flag of each setting."""
SWITCHES = frozenset(flag for flag, name in FLAGS.items() if Settings.model_fields[name].annotation is bool)
"""Flags that need no value: alone they mean true."""


@dataclass(frozen=True)
class Invocation:
    """What every command can ask of the command line: `ctx.obj`."""

    flags: dict[str, Any] = field(default_factory=dict)
    config: Path | None = None
    beam_options: tuple[str, ...] = ()

    def settings(self) -> Settings:
        """The settings this command runs with."""
        return self.sourced_settings()[0]

    def logs_json(self) -> bool:
        """Whether the log is to be JSON; as the flag says where another setting is wrong."""
        try:
            return self.settings().log_format == "json"
        except WrongUse:
            return self.flags.get("log_format") == "json"

    def sourced_settings(self) -> tuple[Settings, dict[str, str]]:
        """The settings, and where each value came from.

        Raises:
            WrongUse: a value out of range, or an unknown name in the configuration file.
        """
        try:
            return load(self.flags, self.config)
        except SettingsError as error:
            raise WrongUse(str(error), "`kpiflow settings` lists every setting") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    0 done, 1 a check failed, 2 wrong use, 3 the run failed, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal whose encoding lacks a character shows the character's code.
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeFormatter())
    code = run(sys.argv[1:] if argv is None else argv)
    gc.freeze()  # else the interpreter searches all modules for garbage as it ends: 0.3 s of CPU
    raise SystemExit(code)


def run(argv: Sequence[str]) -> int:
    """`main` without the exit: the exit code."""
    try:
        arguments, invocation = split(argv)
    except Failure as failure:
        return _report_failure(failure)
    _use_master_key(invocation)
    if not invocation.logs_json():
        return _run_command(arguments, invocation, _report_failure)
    with log_as_json(), follow_command(" ".join(arguments[:1])) as follow:
        return _run_command(arguments, invocation, follow)


def _run_command(
    arguments: Sequence[str], invocation: Invocation, report: Callable[[Failure | int], int]
) -> int:
    """Run a command; `report` gets how it ends, and returns the exit code."""
    try:
        app(arguments[:1])(arguments, prog_name="kpiflow", obj=invocation)
    except Failure as failure:
        return report(failure)
    except Refused as error:
        return report(RunFailed(*str(error).split("; ", 1)))
    except SystemExit as stop:
        return report(stop.code if isinstance(stop.code, int) else 0)
    except Exception as error:
        err.print(traceback.format_exc())
        first = (str(error) or type(error).__name__).splitlines()[0]
        return report(RunFailed(f"the run failed: {first}"))
    return report(0)


def _use_master_key(invocation: Invocation) -> None:
    """Remember the master key of outputs that are read. Wrong settings are for the command to report."""
    try:
        master = invocation.settings().master_key
    except WrongUse:
        return
    if master is not None:
        from transforms.encryption.key_ring import use_master_key  # 20 ms that few need

        use_master_key(master)


def _report_failure(end: Failure | int) -> int:
    """Print a failure; the exit code."""
    if isinstance(end, int):
        return end
    fix = f"\n  {end.fix}" if end.fix else ""
    err.print(style_head("bold red", "kpiflow:", f" {end}{fix}"))
    return end.code


def split(argv: Sequence[str]) -> tuple[list[str], Invocation]:
    """The command's own arguments, and what belongs to every command."""
    own, beam = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, beam = own[:cut], own[cut + 1 :]
    rest: list[str] = []
    flags: dict[str, Any] = {}
    config: Path | None = None
    words = iter(own)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in FLAGS and flag != "--config":
            rest.append(word)
            continue
        value = value if equals else "true" if flag in SWITCHES else next(words, "")
        _check_flag(flag, value)
        if flag == "--config":
            config = Path(value)
        else:
            flags[FLAGS[flag]] = value
    return _repeat_flags(rest), Invocation(flags, config, tuple(beam))


def _check_flag(flag: str, value: str) -> None:
    if not value:
        raise WrongUse(f"{flag} needs a value")
    if FLAGS.get(flag) in Settings.secrets():
        variable = f"{PREFIX}{FLAGS[flag].upper()}"
        raise WrongUse(f"{flag} is a secret and must not be on a command line", f"set {variable} instead")


def _repeat_flags(words: Sequence[str]) -> list[str]:
    """`--input a b` as `--input a --input b`."""
    spread: list[str] = []
    flag, values = "", 0
    for word in words:
        if word.startswith("-"):
            flag, values = (word if word in MANY else ""), 0
        elif flag:
            values += 1
            if values > 1:
                spread.append(flag)
        spread.append(word)
    return spread


def app(loaded: Collection[str] = frozenset(COMMANDS)) -> typer.Typer:
    """The program; commands that are not in `loaded` are only listed."""
    program = typer.Typer(
        help="KPI reports of agents: validated, flagged, enriched and aggregated by one Apache Beam graph.",
        epilog=f"Every setting is a flag of every command, {PREFIX}<NAME>, or a line of --config FILE; "
        "passwords and tokens are not flags. See `kpiflow settings`.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    program.callback()(_top)
    for name, line in COMMANDS.items():
        command = _load_command(name) if name in loaded else _do_nothing
        if isinstance(command, typer.Typer):
            for each in command.registered_commands:
                assert each.callback is not None
                each.callback = show_settings(each.callback, name)
            program.add_typer(command, name=name)
        elif name in loaded:
            program.command(name)(show_settings(command, name))
        else:
            program.command(name, help=line)(command)
    return program


def _load_command(name: str) -> typer.Typer | Callable[..., None]:
    # Beam warns at import of what is optional and of type hints it cannot use, and logs errors that it also
    # raises.
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    # What an output drops or a file has lost must be visible to everybody.
    logging.getLogger("transforms").setLevel(logging.INFO if is_json() else logging.WARNING)
    # What is imported stays: searching it for garbage again and again is a fifth of the start-up time.
    gc.disable()
    try:
        command: typer.Typer | Callable[..., None] = getattr(
            import_module(f"pipelines.commands.{name}"), name
        )
    finally:
        gc.enable()
    return command


def _do_nothing() -> None:
    """The placeholder of a command that is not loaded."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kpiflow {version('kpiflow')}")
        raise typer.Exit


def _top(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
