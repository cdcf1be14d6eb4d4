"""Flink's checkpoints as a folder of files: CHECKPOINTS/<job>/chk-<n>, complete once `_metadata` is in it.

Flink syncs none of their files and folders to disk, so a power cut can leave any of them torn, empty or missing. `seal` syncs a
complete checkpoint and then writes `chk-<n>.seal` beside it: the size and digest of each file. Flink keeps the newest two, and the
older one goes when a third is complete, by when the second was sealed: so one that is sealed and whole is always on disk.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = "checkpoints"
"""Below an engine's folder."""
_COMPLETE = "_metadata"
_SEAL = ".seal"


Held = dict[str, tuple[int, str]]
"""The files of a checkpoint by their names: size and digest."""


class Choice(NamedTuple):
    """Checkpoints to go on from, newest first, and why newer ones are left out. A single one that is `sealed` is known to be whole;
    of the others only Flink can tell, when it reads them."""

    checkpoints: list[Path]
    sealed: bool
    left_out: list[str]


def find_newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below an engine's folder, whichever run made it; None where there is none."""
    found = list_complete_checkpoints(folder)
    return found[-1] if found else None


def list_complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints below an engine's folder, oldest first."""
    return _by_age(folder, _COMPLETE)


def choose(folder: Path) -> Choice:
    """The newest checkpoint that is sealed and whole; where none is, all that are not known to be damaged."""
    unsealed: list[Path] = []
    damaged: list[str] = []
    left_out: list[str] = []
    for path in reversed(_by_age(folder, "")):
        held = _held(path)
        if held is None:
            unsealed.append(path)
            left_out.append(f"{path} was not synced to disk before its run ended")
        elif why := damage(path, held):
            damaged.append(f"{path} is damaged: {why}")
            left_out.append(damaged[-1])
        else:
            return Choice([path], True, left_out)
    return Choice(unsealed, False, damaged)


def seal(checkpoint: Path) -> None:
    """Sync a complete checkpoint to disk, and note what it holds; nothing happens if that was done.

    Raises:
        OSError: it cannot be synced, or Flink has retired it.
    """
    if _held(checkpoint) is not None:
        return
    held: Held = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            held[path.relative_to(checkpoint).as_posix()] = (os.fstat(file.fileno()).st_size, _digest(path))
    job, checkpoints = checkpoint.parent, checkpoint.parent.parent
    for folder in (checkpoint, job, checkpoints, checkpoints.parent):
        _sync(folder)
    with _seal_of(checkpoint).open("w", encoding="utf-8") as file:
        json.dump(held, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(job)
    for other in job.glob(f"*{_SEAL}"):
        if not other.with_suffix("").exists():
            other.unlink(missing_ok=True)


def damage(checkpoint: Path, held: Held) -> str | None:
    """What a checkpoint lacks of what it held when it was sealed; None if it is whole."""
    for name, (size, digest) in held.items():
        path = checkpoint / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes of {size:,}"
            if _digest(path) != digest:
                return f"{name} holds other bytes than were written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def remove_other_jobs(folder: Path, job: str | None = None) -> None:
    """Remove the checkpoints below an engine's folder: of all jobs, but for one that has its own on disk."""
    if not (folder / FOLDER).is_dir():
        return
    for other in (folder / FOLDER).iterdir():
        if other.name != job:
            shutil.rmtree(other, ignore_errors=True)
    _sync(folder / FOLDER)


def _by_age(folder: Path, needed: str) -> list[Path]:
    """The checkpoints below an engine's folder that hold a file `needed`, or else one or a seal, oldest first."""
    dated: list[tuple[int, int, Path]] = []
    for path in (folder / FOLDER).glob("*/chk-*/"):
        marks = [path / needed] if needed else [path / _COMPLETE, _seal_of(path)]
        for mark in marks:
            if mark.exists():
                with suppress(FileNotFoundError):  # Flink has just retired it
                    dated.append((mark.stat().st_mtime_ns, int(path.name.removeprefix("chk-")), path))
                break
    return [path for _, _, path in sorted(dated)]


def _held(checkpoint: Path) -> Held | None:
    """What a checkpoint held when it was sealed; None where it was not, or the seal itself is torn: all was synced before that."""
    try:
        read = json.loads(_seal_of(checkpoint).read_text(encoding="utf-8"))
        held = {str(name): (int(size), str(digest)) for name, (size, digest) in read.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return held if _COMPLETE in held else None


def _seal_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + _SEAL)


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
