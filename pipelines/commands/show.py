"""`kpiflow show`: a summary of an output, on the terminal, as a page or as JSON."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pipelines.console import out, print_json
from pipelines.failures import make_missing_error
from pipelines.outputs import open_for_reading
from pipelines.summary.quality_views import list_quality
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Summary
from pipelines.summary.terminal import draw_summary
from pipelines.target_files import check_target, write_target
from pipelines.verify.output_description import require_output
from schemas.tables import REPORTS
from transforms.sinks.parquet.maintenance_ledger import read_ledger
from transforms.sinks.parquet.parquet_store import DESCRIPTION
from transforms.storage.local_folder import LocalFolder


def show(
    ctx: typer.Context,
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Output of a backfill or a stream: a folder, s3://, gs:// or bigquery://."
        ),
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a self-contained HTML page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show what an output holds: rates, latency, outliers, and quarantine by reason.

    If there are derived tables, also the quality of each source and the open inconsistencies by rule.
    """
    make_page = _load_page(html) if html else None
    with open_for_reading(output, ctx.obj.settings()) as folder:
        if (folder / DESCRIPTION).is_file():
            require_output(folder)
        summary = replace(summarise(folder), output=output)
        expired = read_ledger(LocalFolder(folder))[0].expired_before.get(REPORTS.name)
    if html and make_page:
        write_target(html, "--html", make_page(summary).encode())
    if as_json:
        print_json(list_values(summary), datetime.isoformat)
        return
    if not summary.hours and not summary.received:
        out.print(Text(_explain_empty(output, expired)))
    else:
        for part in draw_summary(summary, out.width):
            out.print(part)
    if html:
        out.print(Text(f"Page: {html}"))


def _explain_empty(output: str, expired_before: date | None) -> str:
    if expired_before is not None:
        return f"{output} has no messages; its reports before {expired_before} have expired."
    return f"{output} has no messages yet; `kpiflow backfill --input FILE... --output {output}` fills it."


def _load_page(path: Path) -> Callable[[Summary], str]:
    """The function that makes the page. Called first, so that nothing is read if it is not installed."""
    check_target(path, "--html")
    try:
        from pipelines.summary.page import render_page
    except ModuleNotFoundError as error:
        if error.name not in {"altair", "vl_convert", "jinja2"}:
            raise
        raise make_missing_error("--html", error, "html") from error
    return render_page


def list_values(summary: Summary) -> dict[str, Any]:
    """The summary and its derived values as dicts and lists. Times stay datetimes."""
    whole = asdict(summary)
    for hour, row in zip(summary.hours, whole["hours"]):
        row["success_rate"] = hour.success_rate
    for outlier, row in zip(summary.examples, whole["examples"]):
        row["explained"] = outlier.explain()
    whole["quality"] = list_quality(summary.quality) if summary.quality else None
    shares = {"quarantined_share": summary.share(summary.quarantined), "success_rate": summary.success_rate}
    return {"output": summary.output, "received": summary.received, **shares, **whole}
