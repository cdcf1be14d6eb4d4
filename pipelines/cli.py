"""The console script `kpiflow`: reads the command line, runs one command, turns every failure into an exit code.

Three things are taken out of the arguments before the command sees them, because they belong to every command: the settings
(each is a flag, `--iqr-factor 2.5`), `--config FILE`, and what follows `--`, which is Beam's.
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

from pipelines.commands import COMMANDS
from pipelines.console import SafeFormatter, err, style_head
from pipelines.failures import Failure, RunFailed, WrongUse
from pipelines.settings import PREFIX, Settings, SettingsError, load

MANY = frozenset({"--input", "--stream"})
"""Options that take several values after one flag, as a shell's glob gives them."""


@dataclass(frozen=True)
class Invocation:
    """What every command can ask of the command line: `ctx.obj`."""

    flags: dict[str, Any] = field(default_factory=dict)
    config: Path | None = None
    beam_options: tuple[str, ...] = ()

    def settings(self) -> Settings:
        """The settings this command runs with."""
        return self.sourced_settings()[0]

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
    """Run one command and exit with its code: 0 done, 1 a check failed, 2 wrong use, 3 the run failed, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a narrow terminal shows the code of what it has no letter for
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeFormatter())
    raise SystemExit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """`main` without the exit: the exit code."""
    try:
        arguments, invocation = split(argv)
        app(arguments[:1])(arguments, prog_name="kpiflow", obj=invocation)
    except Failure as failure:
        err.print(
            style_head("bold red", "kpiflow:", f" {failure}" + (f"\n  {failure.fix}" if failure.fix else ""))
        )
        return failure.code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        err.print(traceback.format_exc())
        first = (str(error) or type(error).__name__).splitlines()[0]
        err.print(style_head("bold red", "kpiflow:", f" the run failed: {first}"))
        return RunFailed.code
    return 0


def split(argv: Sequence[str]) -> tuple[list[str], Invocation]:
    """The command's own arguments, and what belongs to every command."""
    own, beam = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, beam = own[:cut], own[cut + 1 :]
    rest: list[str] = []
    flags: dict[str, Any] = {}
    config: Path | None = None
    names = {f"--{name.replace('_', '-')}": name for name in Settings.model_fields}
    words = iter(own)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in names or flag == "--config":
            value = value if equals else next(words, "")
            if not value:
                raise WrongUse(f"{flag} needs a value")
            if flag == "--config":
                config = Path(value)
            elif names[flag] in Settings.secrets():
                raise WrongUse(
                    f"{flag} is a secret, no matter for a command line",
                    f"set {PREFIX}{names[flag].upper()} instead",
                )
            else:
                flags[names[flag]] = value
        else:
            rest.append(word)
    return _repeat_flags(rest), Invocation(flags, config, tuple(beam))


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
        epilog="Every setting is a flag of every command, KPIFLOW_<NAME>, or a line of --config FILE: see `kpiflow settings`.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    program.callback()(_top)
    for name, line in COMMANDS.items():
        command = _command(name) if name in loaded else _listed
        if isinstance(command, typer.Typer):
            program.add_typer(command, name=name)
        else:
            program.command(name, help=None if name in loaded else line)(command)
    return program


def _command(name: str) -> typer.Typer | Callable[..., None]:
    logging.getLogger().setLevel(
        logging.ERROR
    )  # Beam warns at import of what is optional, and of type hints it cannot use
    logging.getLogger("apache_beam.runners.common").setLevel(
        logging.CRITICAL
    )  # it logs the errors that it raises as well
    logging.getLogger("transforms").setLevel(
        logging.WARNING
    )  # what an output drops or a file has lost is for everybody to know
    gc.disable()  # what is imported stays: to look through it for garbage again and again is a fifth of the start
    try:
        command: typer.Typer | Callable[..., None] = getattr(
            import_module(f"pipelines.commands.{name}"), name
        )
    finally:
        gc.enable()
    return command


def _listed() -> None:
    """Stands for a command that is not loaded."""


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
