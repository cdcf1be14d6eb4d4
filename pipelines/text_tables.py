"""Tables of a terminal. A module of its own, since most commands draw none."""

from collections.abc import Sequence

from rich.table import Table

from pipelines.console import out

_ANY_WIDTH = 10_000


def make_table(names: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table whose columns `names` are texts and `numbers` are numbers."""
    table = Table(box=None, header_style="bold")
    for title in names:
        table.add_column(title, overflow="fold")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def format_number(value: float | None, form: str) -> str:
    """A number in a form; nothing of one that is null."""
    return "" if value is None else format(value, form)


def format_change(value: float | None, is_relative: bool) -> str:
    """A change of a metric with its sign: a share of it, or in its own unit."""
    return format_number(value, "+.1%" if is_relative else "+.4f")


def print_table(table: Table) -> None:
    """Print a table. Without a terminal it is as wide as its content needs, so that no cell is folded."""
    if not out.is_terminal:
        table.width = out.measure(table, options=out.options.update(width=_ANY_WIDTH)).maximum
    out.print(table)
