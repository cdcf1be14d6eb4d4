"""`kpiflow query`: named queries over the tables of an output folder."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipelines.console import err, escape_line, escape_text, out
from pipelines.failures import RunFailed, WrongUse
from pipelines.queries.formats import FORMATS, list_rows
from pipelines.queries.limits import QueryLimits
from pipelines.queries.query import Parameter, Query
from pipelines.queries.registry import QUERIES, find_query
from pipelines.queries.run import Answer, plan_query, run_query
from pipelines.target_files import check_target, write_target
from pipelines.text_tables import make_table, print_table
from pipelines.time_flags import parse_span
from pipelines.verify.output_description import read_row_settings, require_derived
from transforms.core.counts import format_count
from transforms.derived.registry import DERIVED

MOST_ROWS = 100_000
WIDEST = 12
"""A result with more columns is printed as a list of names and values for each row."""
BINARY = ("arrow", "parquet")
SUFFIXES = {".json": "json", ".ndjson": "ndjson", ".csv": "csv", ".arrows": "arrow", ".parquet": "parquet"}


class Format(StrEnum):
    """What `--format` may be."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


def query(
    ctx: typer.Context,
    output: Annotated[
        str | None, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the query; without it they are listed.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Argument(metavar="PARAMETER=VALUE...", help="Parameters of the query.", show_default=False),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Only rows at or after this time (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only rows before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="At most so many rows.")] = 100,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Form of the rows. Default: table, or as FILE ends.", show_default=False
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write to this file. It is replaced whole."),
    ] = None,
    cursor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Continue after the page that printed this cursor.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, max=3600, help="Stop the query after so long.")] = 30,
    memory_mb: Annotated[int, typer.Option(min=16, help="Stop the query if it needs more memory.")] = 1024,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print how DuckDB runs it, measured, in place of the rows.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--help", help="Show this message; with a NAME, explain the query.")
    ] = False,
) -> None:
    """Ask a named query of an output folder: reports by task, an agent over time, summaries, anomalies...

    Without a NAME the queries are listed. A result with more rows than --limit is cut: stderr has the
    cursor with which the same command continues.
    """
    if explain and name is None:
        typer.echo(ctx.get_help())
        return
    if output is None:
        raise WrongUse("no output is given", "`kpiflow query OUT` lists the queries of an output")
    if name is None:
        _list_queries(output)
        return
    asked = find_query(name)
    if explain:
        _explain(asked)
        return
    chosen = _choose_format(form, target)
    folder = require_folder(output)
    given = asked.parse(_split_parameters(parameters or []))
    minutes = read_row_settings(folder, "queried")["file_minutes"]
    span, limits = parse_span(start, end), QueryLimits(limit, seconds, memory_mb)
    if plan:
        for line in plan_query(folder, asked, given, span, minutes, limits).list_lines():
            out.print(Text(escape_line(line)))
        return
    answer = run_query(folder, asked, given, span, minutes, limits, cursor)
    if not answer.files:
        require_derived(folder, *(each.table for each in asked.inputs if each.table.name in DERIVED))
    _write(answer, chosen, target)
    if answer.cursor:
        cut = f"cut after {format_count(answer.rows.num_rows, 'row')}; the same command continues with"
        err.print(Text(f"{cut} --cursor {answer.cursor}", style="dim"))


def require_folder(output: str) -> Path:
    """The folder of an output that is queried.

    Raises:
        WrongUse: it is not on this machine.
        RunFailed: this system cannot read open files by their descriptors.
    """
    if "://" in output:
        raise WrongUse("queries read folders of this machine", "name a folder")
    if not Path("/proc/self/fd").is_dir():
        raise RunFailed("queries read files through /proc/self/fd, which only Linux has", "run this on Linux")
    return Path(output)


def _split_parameters(words: Sequence[str]) -> dict[str, str]:
    """The values of `NAME=VALUE` words."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise WrongUse(f"{word[:50]} is not a parameter", "write PARAMETER=VALUE")
        if name in given:
            raise WrongUse(f"{name[:50]} is given twice", "give it once")
        given[name] = value
    return given


def _choose_format(form: Format | None, target: Path | None) -> str:
    if target is not None:
        check_target(target, "--output")
        chosen = form.value if form else SUFFIXES.get(target.suffix)
        if chosen is None or chosen == "table":
            raise WrongUse(f"in which format is {target}?", f"give --format {'|'.join(FORMATS)}")
        return chosen
    chosen = form.value if form else "table"
    if chosen in BINARY and sys.stdout.isatty():
        raise WrongUse(f"a terminal cannot show {chosen}", "give --output FILE")
    return chosen


def _write(answer: Answer, chosen: str, target: Path | None) -> None:
    if chosen == "table":
        _print_rows(answer)
        return
    data = FORMATS[chosen](answer)
    if target is not None:
        write_target(target, "--output", data)
        err.print(f"{format_count(answer.rows.num_rows, 'row')} -> {target}")
    elif chosen == "csv" and sys.stdout.isatty():
        typer.echo(escape_text(data.decode()), nl=False)
    else:
        typer.echo(data, nl=False)


def _print_rows(answer: Answer) -> None:
    if not answer.rows.num_rows:
        out.print("no rows")
        return
    rows = [{name: _format_cell(value) for name, value in row.items()} for row in list_rows(answer.rows)]
    if len(answer.query.columns) <= WIDEST:
        table = make_table(answer.query.columns.names, [])
        for row in rows:
            table.add_row(*map(Text, row.values()))
        print_table(table)
        return
    for row in rows:
        table = make_table(["column", "value"], [])
        for name, value in row.items():
            table.add_row(name, Text(value))
        print_table(table)


def _format_cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else escape_line(str(value))


def _list_queries(output: str) -> None:
    table = make_table(["query", "parameters", "answers"], [])
    for each in QUERIES.values():
        names = (f"{one.name}={'' if one.required else '...'}" for one in each.parameters)
        shown = " ".join(one.rstrip("=") if one.endswith("=") else f"[{one}]" for one in names)
        table.add_row(each.name, Text(shown), Text(each.summary))
    print_table(table)
    out.print(Text(f"`kpiflow query {output} NAME --help` explains a query", style="dim"))


def _explain(asked: Query) -> None:
    """Print what a query takes and gives."""
    out.print(Text(f"{asked.name}: {asked.summary}\n", style="bold"))
    if asked.parameters:
        table = make_table(["parameter", "type", "", "meaning"], [])
        for each in asked.parameters:
            kind = "|".join(each.choices) or each.kind.value
            table.add_row(each.name, Text(kind), _describe_default(each), Text(each.summary))
        print_table(table)
    for source in asked.inputs:
        bounds = " and ".join(source.span or ("--from", "--to"))
        out.print(
            f"\n{source.name}: the rows of {source.table.name} whose {source.table.time} is within {bounds}"
        )
    order = ", ".join(f"{each.column}{' DESC' if each.descending else ''}" for each in asked.order)
    out.print(f"columns: {', '.join(asked.columns.names)}\norder: {order}\n\n{asked.sql.strip()}")
    if conditions := [each.condition for each in asked.parameters if each.condition]:
        out.print("\nof whose rows, for the parameters that are given:\n" + " AND ".join(conditions))


def _describe_default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default is None else f"default {parameter.default}"
