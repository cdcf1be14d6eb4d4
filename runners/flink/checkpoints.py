"""Flink's checkpoints as a folder of files: checkpoints/<job>/chk-<n>, complete once `_metadata` is in it.

Flink syncs none of their files and folders to disk, so a power cut can leave any of them torn, empty or
missing. `seal` syncs a complete checkpoint and then writes `chk-<n>.seal` beside it: the size and digest of
each file. Flink keeps the newest two and removes the older one when a third is complete. By then the second
is sealed, so one that is sealed and whole is always on disk.
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


Contents = dict[str, tuple[int, str]]
"""The files of a checkpoint by their names: size and digest."""


class Choice(NamedTuple):
    """Checkpoints to go on from, newest first, and why newer ones are left out.

    One that `is_sealed` needs no other and is known to be whole. Of others only Flink can tell, when it reads
    them.
    """

    checkpoints: list[Path]
    is_sealed: bool
    left_out: list[str]

    @property
    def newest(self) -> Path | None:
        """The checkpoint to try first."""
        return self.checkpoints[0] if self.checkpoints else None

    def without_newest(self, why: str) -> "Choice":
        """The older checkpoints, since the newest one cannot be used."""
        return Choice(self.checkpoints[1:], False, [why])


def find_newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below an engine's folder, of any run; None if there is none."""
    found = list_complete_checkpoints(folder)
    return found[-1] if found else None


def list_complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints below an engine's folder, oldest first."""
    return _list_by_age(folder, _COMPLETE)


def choose_checkpoints(folder: Path) -> Choice:
    """The newest checkpoint that is sealed and whole; else all that are not known to be damaged."""
    unsealed: list[Path] = []
    damaged: list[str] = []
    left_out: list[str] = []
    for path in reversed(_list_by_age(folder, "")):
        contents = _read_seal(path)
        if contents is None:
            unsealed.append(path)
            left_out.append(f"{path} was not synced to disk before its run ended")
        elif why := find_damage(path, contents):
            damaged.append(f"{path} is damaged: {why}")
            left_out.append(damaged[-1])
        else:
            return Choice([path], True, left_out)
    return Choice(unsealed, False, damaged)


def seal(checkpoint: Path) -> None:
    """Sync a complete checkpoint to disk and record its contents. A sealed one is left as it is.

    Raises:
        OSError: it cannot be synced, or Flink has removed it.
    """
    if _read_seal(checkpoint) is not None:
        return
    contents: Contents = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        contents[path.relative_to(checkpoint).as_posix()] = (size, _digest(path))
    job, checkpoints = checkpoint.parent, checkpoint.parent.parent
    for folder in (checkpoint, job, checkpoints, checkpoints.parent):
        _sync_folder(folder)
    with _seal_path(checkpoint).open("w", encoding="utf-8") as file:
        json.dump(contents, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(job)
    for other in job.glob(f"*{_SEAL}"):
        if not other.with_suffix("").exists():
            other.unlink(missing_ok=True)


def find_damage(checkpoint: Path, contents: Contents) -> str | None:
    """How a checkpoint differs from what was recorded of it; None if it is whole."""
    for name, (size, digest) in contents.items():
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
    """Remove the checkpoints below an engine's folder, except those of `job`."""
    if not (folder / FOLDER).is_dir():
        return
    for other in (folder / FOLDER).iterdir():
        if other.name != job:
            shutil.rmtree(other, ignore_errors=True)
    _sync_folder(folder / FOLDER)


def _list_by_age(folder: Path, needed: str) -> list[Path]:
    """Checkpoints with the file `needed`, or if that is empty, with `_metadata` or a seal; oldest first."""
    dated: list[tuple[int, int, Path]] = []
    for path in (folder / FOLDER).glob("*/chk-*/"):
        marks = [path / needed] if needed else [path / _COMPLETE, _seal_path(path)]
        for mark in marks:
            if mark.exists():
                with suppress(FileNotFoundError):  # Flink has just removed it
                    dated.append((mark.stat().st_mtime_ns, int(path.name.removeprefix("chk-")), path))
                break
    return [path for _, _, path in sorted(dated)]


def _read_seal(checkpoint: Path) -> Contents | None:
    """What a checkpoint held when it was sealed; None without a seal.

    A torn seal counts as none: all else was synced before it was written.
    """
    try:
        read = json.loads(_seal_path(checkpoint).read_text(encoding="utf-8"))
        contents = {str(name): (int(size), str(digest)) for name, (size, digest) in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return contents if _COMPLETE in contents else None


def _seal_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + _SEAL)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
