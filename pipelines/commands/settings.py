"""`kpiflow settings`: every setting, its value and where that came from."""

from typing import Annotated

import typer
from rich.table import Table

from pipelines.console import out, print_json
from pipelines.settings import PREFIX, Settings


def settings(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Every setting, its value and where that came from."""
    values, origins = ctx.obj.sourced_settings()
    if as_json:
        shown = values.model_dump(mode="json")
        rows = {name: {"value": shown[name], "from": origins[name]} for name in Settings.model_fields}
        print_json(rows)
        return
    table = Table(
        box=None,
        header_style="bold",
        caption=f"a flag, then {PREFIX}<NAME>, then --config FILE, then the default",
    )
    for title in ("setting", "value", "from", "meaning"):
        table.add_column(title, overflow="fold")
    for name, declared in Settings.model_fields.items():
        table.add_row(name, str(getattr(values, name)), origins[name], declared.description)
    out.print(table)
