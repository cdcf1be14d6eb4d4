"""`kpiflow parity`: whether two outputs hold the same rows."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipelines.console import escape_line, out, print_json
from pipelines.failures import CheckFailed
from pipelines.outputs import open_for_reading
from pipelines.progress import open_bar
from pipelines.verify.comparison import TableComparison
from pipelines.verify.parity import compare_outputs
from transforms.core.errors import DamagedFile


def parity(
    ctx: typer.Context,
    a: Annotated[
        str, typer.Argument(metavar="OUT_A", help="An output: a folder, s3://, gs:// or bigquery://.")
    ],
    b: Annotated[str, typer.Argument(metavar="OUT_B", help="The output to compare it with.")],
    identity: Annotated[
        bool, typer.Option("--identity", help="Compare source, message_id, received_at and revision too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Check that two outputs hold the same rows in every table.

    Rows are paired by key. All values must be equal, except that values derived from sums of floats may
    differ by 1e-9 relative. BigQuery cannot tell an empty list from a missing one, so next to BigQuery these
    two count as equal.
    """
    settings = ctx.obj.settings()
    empty_is_null = any(text.startswith("bigquery:") for text in (a, b))
    with (
        open_bar(*Progress.get_default_columns()) as bar,
        open_for_reading(a, settings) as folder_a,
        open_for_reading(b, settings) as folder_b,
    ):
        try:
            compared = compare_outputs(
                folder_a,
                folder_b,
                identity,
                lambda sequence, what: bar.track(sequence, description=what),
                empty_is_null,
            )
        except DamagedFile as error:
            raise CheckFailed(str(error)) from error
    different = [name for name, each in compared.items() if not each.same]
    if as_json:
        print_json(
            {"equal": not different, "tables": {name: asdict(each) for name, each in compared.items()}}
        )
    else:
        _print(compared)
    if different:
        raise CheckFailed(f"{a} (A) and {b} (B) do not hold the same rows: {', '.join(different)}")


def _print(compared: dict[str, TableComparison]) -> None:
    table = Table(box=None, header_style="bold")
    for title in ("table", "in A", "in B", "equal", "different", "only A", "only B"):
        table.add_column(title, justify="left" if title == "table" else "right", no_wrap=True)
    for name, each in compared.items():
        counts = (each.rows_a, each.rows_b, each.equal, each.different, each.only_a, each.only_b)
        table.add_row(name, *(f"{count:,}" for count in counts))
    out.print(table)
    for name, each in compared.items():
        for difference in each.differences:
            out.print(Text(f"- {name} {escape_line(str(difference))[:500]}"))
    for each in compared.values():
        for folder, day in each.compared_from.items():
            how = f"is compared from {day}: earlier" if day else "is not compared: some"
            out.print(f"{folder} {how} rows of A or B have expired")
    if all(each.same for each in compared.values()):
        out.print("both hold the same rows")
