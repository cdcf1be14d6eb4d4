"""Status files: small JSON files in which a running process reports its state, for `kpiflow status` and the
job.

A status file is replaced as a whole, so a reader never sees half of one. It is not synced to disk: after a
power cut it may be old or missing, and the process writes it again within seconds.
"""

import json
import os
from pathlib import Path
from typing import Any

from transforms.core.events import STATE_NOT_WRITTEN, STATUS_DAMAGED, TOTALS_DAMAGED, Event, log_event
from transforms.core.typed_json import Shape, parse_json

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


def read_kept(path: Path, shape: type[Shape]) -> Shape | None:
    """The content of a file that is kept from run to run and synced to disk; None if there is none.

    `shape`: as `transforms.core.typed_json` says. A damaged file counts as none, and is reported.
    """
    return _read(path, shape, TOTALS_DAMAGED)


def read_status(path: Path, shape: type[Shape]) -> Shape | None:
    """The content of a status file; None if there is none.

    `shape`: as `transforms.core.typed_json` says. A damaged file counts as none, and is reported.
    """
    return _read(path, shape, STATUS_DAMAGED)


def report_damage(path: Path, problem: str, event: Event = STATUS_DAMAGED) -> None:
    """Log once that a file cannot be used, and what to do."""
    if path not in _damaged:
        log_event(event, path=str(path), problem=problem)
    _damaged.add(path)


def _read(path: Path, shape: type[Shape], damaged: Event) -> Shape | None:
    """The content of a file; the event `damaged` is logged once, where it cannot be read."""
    try:
        content = parse_json(path.read_bytes(), shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        report_damage(path, str(error), damaged)
        return None
    _damaged.discard(path)
    return content
