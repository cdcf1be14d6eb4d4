"""Flink's checkpoints as a folder of files: CHECKPOINTS/<job>/chk-<n>, complete once `_metadata` is in it."""

import shutil
from pathlib import Path

FOLDER = "checkpoints"
"""Below an engine's folder."""
_COMPLETE = "_metadata"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below an engine's folder, whichever run made it; None where there is none."""
    found = complete_checkpoints(folder)
    return found[-1] if found else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints below an engine's folder, oldest first."""
    dated: list[tuple[int, int, Path]] = []
    for metadata in (folder / FOLDER).glob(f"*/chk-*/{_COMPLETE}"):
        try:
            dated.append((metadata.stat().st_mtime_ns, int(metadata.parent.name.removeprefix("chk-")), metadata.parent))
        except FileNotFoundError:  # Flink has just retired it
            continue
    return [path for _, _, path in sorted(dated)]


def forget_others(folder: Path, job: str) -> None:
    """Remove the checkpoints of all other jobs, once this one has its own."""
    for other in (folder / FOLDER).iterdir():
        if other.name != job:
            shutil.rmtree(other, ignore_errors=True)
