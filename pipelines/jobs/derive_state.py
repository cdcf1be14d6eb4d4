"""What the last pass of deriving an output did, and whether a job derives it; DuckDB is not loaded here."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pipelines.settings import SettingsError, check_values
from schemas.tables import AGENTS, RESULTS, TASKS, Table
from transforms.core.status_files import read_status, report_damage, write_status
from transforms.core.typed_json import Count, Whole, as_moment
from transforms.sinks.parquet.output_files import OutputFiles

HOME = "_derive"
"""Below an output: the lock of the job that derives it, its temporary files, and what the last pass did."""
_STATE = "state.json"
_RECORDS = (TASKS, RESULTS, AGENTS)


class Analysis(TypedDict):
    """The last pass that analysed rows: how many, how long it took, the longest that one of them waited."""

    rows: Count
    seconds: float
    delay_seconds: float | None


class DeriveState(TypedDict):
    """What `write_state` writes; earlier versions wrote less."""

    at: float
    until: Whole | None
    error: NotRequired[str | None]
    whole_until: NotRequired[Whole | None]
    analysis: NotRequired[Analysis | None]
    settings: NotRequired[dict[str, Any]]
    seconds: NotRequired[float]


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


def read_state(output: Path) -> DeriveState | None:
    """What the last pass did; None if nothing was ever derived."""
    path = output / HOME / _STATE
    state = read_status(path, DeriveState)
    try:
        check_values(state.get("settings", {}) if state else {})
    except SettingsError as error:
        report_damage(path, str(error))
        return None
    return state


def read_until(state: DeriveState) -> datetime | None:
    """Up to when the last pass derived; None if it derived everything."""
    moment = state["until"]
    return None if moment is None else as_moment(moment / 1_000_000)


def describe_analysis(
    state: DeriveState | None, cutoff: int | None, read: int, seconds: float, is_whole: bool
) -> dict[str, Any]:
    """What the state keeps of how fast rows are analysed, from the state before a pass and what it did.

    `cutoff`: the microsecond up to which it derived, None if it derived everything. `is_whole`: it left
    nothing to the next one. A pass that read no rows says nothing new. `delay_seconds` is the longest that a
    row waited, from its arrival until its tables were written: from the cutoff of the last whole pass before.
    """
    last = state and state.get("whole_until")
    kept: dict[str, Any] = {
        "whole_until": cutoff if is_whole else last,
        "analysis": state and state.get("analysis"),
    }
    if read:
        delay = None if last is None or cutoff is None else time.time() - last / 1_000_000
        kept["analysis"] = {"rows": read, "seconds": seconds, "delay_seconds": delay}
    return kept


def _has_file(output: Path, table: Table) -> bool:
    return next(OutputFiles.of(output).iterate(table), None) is not None
