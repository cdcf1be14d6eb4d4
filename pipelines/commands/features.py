"""`kpiflow features`: the features of reports, with labels, as one file for training or serving a model."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.console import err, out
from pipelines.export.export import ExportFiles, export
from pipelines.export.feature_rows import count_reports
from pipelines.failures import CheckFailed, WrongUse, make_missing_error
from pipelines.progress import show_count
from pipelines.target_files import check_target, explain_unwritable
from pipelines.time_flags import parse_span
from pipelines.verify.output_description import make_underived_error, require_local, require_output
from pipelines.verify.table_scan import partition
from schemas.tables import REPORTS
from transforms.core.counts import format_count
from transforms.core.errors import DamagedFile
from transforms.derived.features import FEATURES

if TYPE_CHECKING:
    from pipelines.export.encoding import Encoder


def features(
    ctx: typer.Context,
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Output folder; a stream may be writing to it.")
    ],
    target: Annotated[
        Path,
        typer.Option("--output", metavar="FILE", help="The Parquet file to write. It is replaced whole."),
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Only reports recorded at or after this time (RFC 3339).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only reports recorded before this time.")] = None,
    encode: Annotated[
        bool,
        typer.Option(
            "--encode", help="Also write categories as numbers, and keep the encoding in FILE.skops."
        ),
    ] = False,
    encoder: Annotated[
        Path | None,
        typer.Option("--encoder", metavar="FILE", help="Encode as this .skops file of an earlier run does."),
    ] = None,
) -> None:
    """Write the features of each report, with what became of its task as labels.

    A row has the features, the metrics of the report, and columns `label_...` from the result of its task. No
    feature knows a result. FILE.columns.json says what each column means.
    """
    local = require_local(output)
    if encode and encoder:
        raise WrongUse("--encode makes an encoding, --encoder uses one", "give only one of them")
    check_target(target, "--output")
    folder, span = require_output(local), parse_span(start, end)
    total = len(partition((folder, FEATURES), (folder, REPORTS))[0])
    if not total:
        raise make_underived_error(folder, FEATURES)
    stored = _load_encoder(encode, encoder)
    context = timedelta(hours=ctx.obj.settings().context_hours)
    files = ExportFiles(target)
    try:
        with explain_unwritable(target, "--output"), show_count("hours", total, lines=True) as advance:
            count = export(folder, files, span, context, lambda: advance(1), encode, stored)
        missing = count_reports(folder, span) - count
    except DamagedFile as error:
        raise CheckFailed(str(error), f"run `kpiflow derive {output}`") from error
    beside = [files.dictionary, *([files.encoder] if encode else [])]
    out.print(
        f"{format_count(count, 'row')} -> {target}, and {', '.join(path.name for path in beside)} beside it"
    )
    if missing > 0:
        lacks = f"without features yet: {format_count(missing, 'report')} of this span"
        err.print(f"{lacks}; `kpiflow derive {output}` makes them")


def _load_encoder(encode: bool, path: Path | None) -> "Encoder | None":
    """The encoding of a file, if given. What encodes is imported now, so that nothing is read without it."""
    if not encode and path is None:
        return None
    try:
        from pipelines.export.encoding import load_encoder
    except ModuleNotFoundError as error:
        if error.name not in {"sklearn", "skops", "pandas"}:
            raise
        raise make_missing_error("encoding", error, "features") from error
    return load_encoder(path) if path else None
