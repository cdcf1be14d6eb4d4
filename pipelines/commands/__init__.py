"""The command line's verbs, one file each; this list is the order of `kpiflow --help`."""

from collections.abc import Callable

import typer

from pipelines.commands.settings import settings

COMMANDS: tuple[Callable[..., None], ...] = (settings,)
GROUPS: dict[str, typer.Typer] = {}
