"""The command line's verbs, one file each; this list is the order of `kpiflow --help`."""

from collections.abc import Callable

import typer

from pipelines.commands.backfill import backfill
from pipelines.commands.generate import generate
from pipelines.commands.quarantine import quarantine
from pipelines.commands.parity import parity
from pipelines.commands.reconcile import reconcile
from pipelines.commands.settings import settings
from pipelines.commands.show import show
from pipelines.commands.validate import validate

COMMANDS: tuple[Callable[..., None], ...] = (generate, validate, backfill, reconcile, parity, show, settings)
GROUPS: dict[str, typer.Typer] = {"quarantine": quarantine}
