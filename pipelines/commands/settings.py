"""`kpiflow settings`: every setting by group, its value and where it came from."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipelines.console import print_json
from pipelines.settings import PREFIX, Settings
from pipelines.text_tables import print_table


def settings(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List every setting by group, its value and where it came from."""
    values, origins = ctx.obj.sourced_settings()
    groups = Settings.groups()
    if as_json:
        plain = values.model_dump(mode="json")
        names = [name for group in groups.values() for name in group]
        print_json({name: {"value": plain[name], "from": origins[name]} for name in names})
        return
    order = f"a flag comes first, then {PREFIX}<NAME>, then --config FILE, then the default"
    table = Table(box=None, header_style="bold", caption=order)
    for title in ("setting", "value", "from", "meaning"):
        table.add_column(title, overflow="fold")
    for group, names in groups.items():
        table.add_row(Text(f"\n{group.title}", style="bold"))
        for name in names:
            meaning = Settings.model_fields[name].description
            table.add_row(name, str(getattr(values, name)), origins[name], meaning)
    print_table(table)
