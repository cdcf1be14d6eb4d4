"""Status files: small JSON files in which a running process reports its state, for `kpiflow status` and the
job.

A status file is replaced as a whole, so a reader never sees half of one. It is not synced to disk: after a
power cut it may be old or missing, and the process writes it again within seconds.
"""

import json
import os
from pathlib import Path
from typing import Any

from transforms.core.events import STATE_NOT_WRITTEN, TOTALS_DAMAGED, log_event

_failed: set[Path] = set()
"""Files whose last write failed: each failure is logged once, not every second."""
_damaged: set[Path] = set()
"""Files whose damage was reported."""


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Replace a status file. If it cannot be written, that is logged once and has no other effect."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(status), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        if path not in _failed:
            log_event(STATE_NOT_WRITTEN, path=str(path), error=str(error))
        _failed.add(path)
    else:
        _failed.discard(path)


def read_kept(path: Path) -> dict[str, Any] | None:
    """The content of a file that is kept from run to run and synced to disk; None if there is none.

    A damaged one counts as none, and is reported.
    """
    content = read_status(path)
    if content is None and path.exists():
        report_damage(path, "it is not a JSON object")
    return content


def report_damage(path: Path, problem: str) -> None:
    """Log once that a file that is kept cannot be used, and what to do."""
    if path not in _damaged:
        log_event(TOTALS_DAMAGED, path=str(path), problem=problem)
    _damaged.add(path)


def read_status(path: Path) -> dict[str, Any] | None:
    """The content of a status file; None if there is none, or it is not a JSON object."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) else None
