"""What the last pass of deriving an output did, and whether a job derives it; DuckDB is not loaded here."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.tables import AGENTS, RESULTS, TASKS, Table
from transforms.core.status_files import read_status, write_status
from transforms.sinks.parquet.output_files import OutputFiles

HOME = "_derive"
"""Below an output: the lock of the job that derives it, its temporary files, and what the last pass did."""
_STATE = "state.json"
_RECORDS = (TASKS, RESULTS, AGENTS)


def should_derive(output: Path, choice: str) -> bool:
    """Whether a job derives the tables of an output folder, by the setting `derive`."""
    if choice != "auto":
        return choice == "always"
    has_records = any(_has_file(output, table) for table in _RECORDS)
    return has_records or read_state(output) is not None


def write_state(output: Path, until: datetime | None, **values: Any) -> None:
    """Write what a pass did. `until`: as `read_until` returns it."""
    moment = until and int(until.timestamp() * 1_000_000)
    write_status(output / HOME / _STATE, {"at": time.time(), "until": moment, "error": None, **values})


def read_state(output: Path) -> dict[str, Any] | None:
    """What the last pass did; None if nothing was ever derived."""
    return read_status(output / HOME / _STATE)


def read_until(state: dict[str, Any]) -> datetime | None:
    """Up to when the last pass derived; None if it derived everything."""
    moment = state.get("until")
    return None if moment is None else datetime.fromtimestamp(moment / 1_000_000, UTC)


def describe_analysis(
    state: dict[str, Any] | None, cutoff: int | None, read: int, seconds: float, is_whole: bool
) -> dict[str, Any]:
    """What the state keeps of how fast rows are analysed, from the state before a pass and what it did.

    `cutoff`: the microsecond up to which it derived, None if it derived everything. `is_whole`: it left
    nothing to the next one. A pass that read no rows says nothing new. `delay_seconds` is the longest that a
    row waited, from its arrival until its tables were written: from the cutoff of the last whole pass before.
    """
    state = state or {}
    last = state.get("whole_until")
    kept = {"whole_until": cutoff if is_whole else last, "analysis": state.get("analysis")}
    if read:
        delay = None if last is None or cutoff is None else time.time() - last / 1_000_000
        kept["analysis"] = {"rows": read, "seconds": seconds, "delay_seconds": delay}
    return kept


def _has_file(output: Path, table: Table) -> bool:
    return next(OutputFiles.of(output).iterate(table), None) is not None
