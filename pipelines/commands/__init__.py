"""The command line's verbs, one file each; this list is the order of `kpiflow --help`."""

from collections.abc import Callable

import typer

from pipelines.commands.backfill import backfill
from pipelines.commands.generate import generate
from pipelines.commands.settings import settings
from pipelines.commands.show import show

COMMANDS: tuple[Callable[..., None], ...] = (generate, backfill, show, settings)
GROUPS: dict[str, typer.Typer] = {}
