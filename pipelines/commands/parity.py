"""`kpiflow parity`: whether two outputs hold the same rows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipelines.console import err, out
from pipelines.failures import CheckFailed
from pipelines.tables.parity import Comparison
from pipelines.tables.parity import parity as compare
from pipelines.tables.summary import printable
from transforms.sinks.files import DamagedFile


def parity(
    a: Annotated[Path, typer.Argument(metavar="OUT_A", help="An output folder.")],
    b: Annotated[Path, typer.Argument(metavar="OUT_B", help="Another, to be held against it.")],
    identity: Annotated[
        bool, typer.Option("--identity", help="Compare source, message_id, received_at and revision too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Check that two outputs hold the same rows in every table.

    Rows are paired by key. Everything must be equal, but what derives from sums of floats may differ by 1e-9 relative.
    """
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        try:
            compared = compare(a, b, identity, lambda sequence, what: bar.track(sequence, description=what))
        except DamagedFile as error:
            raise CheckFailed(str(error)) from error
    same = all(each.same for each in compared.values())
    if as_json:
        typer.echo(json.dumps({"equal": same, "tables": {name: asdict(each) for name, each in compared.items()}}, indent=2))
    else:
        _print(compared)
    if not same:
        tables = ", ".join(name for name, each in compared.items() if not each.same)
        raise CheckFailed(f"{a} (A) and {b} (B) do not hold the same rows: {tables}")


def _print(compared: dict[str, Comparison]) -> None:
    table = Table(box=None, header_style="bold")
    for title in ("table", "in A", "in B", "equal", "different", "only A", "only B"):
        table.add_column(title, justify="left" if title == "table" else "right", no_wrap=True)
    for name, each in compared.items():
        counts = (each.rows_a, each.rows_b, each.equal, each.different, each.only_a, each.only_b)
        table.add_row(name, *(f"{count:,}" for count in counts))
    out.print(table)
    for name, each in compared.items():
        for difference in each.differences:
            out.print(Text(f"- {name} {printable(str(difference))[:500]}"))
    if all(each.same for each in compared.values()):
        out.print("both hold the same rows")
