"""Folders for what a job needs only while it runs."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def make_work_folder(near: Path | None, name: str, keep_failed: bool = False) -> Iterator[Path]:
    """Make an empty folder of that name in the folder `near`, or a temporary one, and remove it at the end.

    What a killed run left there is removed first. With `keep_failed` the folder stays if the block raises.
    """
    place = near / name if near else Path(tempfile.mkdtemp(prefix="kpiflow-"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    keep = keep_failed
    try:
        yield place
        keep = False
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
