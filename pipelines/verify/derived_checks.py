"""Checks the derived tables of an output: whether their files are those that its stored rows give."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.jobs.derive_state import read_state, read_until
from pipelines.verify.output_description import read_row_settings
from pipelines.verify.table_scan import list_files
from schemas.partitioning import UNTIMED_FOLDER
from schemas.tables import Table
from transforms.core.counts import format_count
from transforms.encryption.key_ring import has_keys
from transforms.sinks.parquet.parquet_file import verify_file
from transforms.storage.local_folder import LocalFolder

EXAMPLES = 3


def list_derived_tables(outputs: Sequence[Path]) -> dict[str, Table]:
    """The derived tables that can be compared: all if every output has been derived, else none."""
    if any(read_state(output) is None for output in outputs):
        return {}
    from transforms.derived.registry import DERIVED

    return {name: table.table for name, table in DERIVED.items()}


def find_derived_problems(output: Path) -> Iterator[str]:
    """What is wrong with the derived files of an output; nothing if it was never derived.

    They are compared with what the settings and the moment of the last pass give. After that moment a stream
    has rows that are not derived yet, which is no problem.
    """
    state = read_state(output)
    if state is None or "settings" not in state:
        return
    # DuckDB takes time to load.
    from pipelines.jobs.derive import compare, make_deriver

    fix = f"run `kpiflow derive {output}`"
    is_encrypted = has_keys(LocalFolder(output))
    values = state["settings"] | read_row_settings(output)
    for found in compare(output, make_deriver(output, values), read_until(state)):
        table = found.plan.table.table
        damaged = [
            (file, problem)
            for file in list_files(output, table)
            if (problem := verify_file(file.open(), is_encrypted))
        ]
        for file, problem in damaged[:EXAMPLES]:
            yield f"{file.name} {problem}; remove it, then {fix}"
        missing = [unit for unit in found.stale if not any(file in found.made.inputs for file in unit.files)]
        stale = [unit for unit in found.stale if unit not in missing]
        for units, text in (
            (missing, "missing"),
            (stale, "stale, since what it is made of has changed"),
        ):
            if units:
                files = [file for unit in units for file in unit.files or [f"{table.name}/{UNTIMED_FOLDER}"]]
                yield f"{table.name}: {format_count(len(files), 'file')} {text} ({_quote(files)}); {fix}"
        if found.surplus:
            count = format_count(len(found.surplus), "file")
            yield f"{table.name}: {count} without rows ({_quote(found.surplus)}); {fix}"


def _quote(files: Sequence[str]) -> str:
    return "e.g. " + ", ".join(files[:EXAMPLES])
