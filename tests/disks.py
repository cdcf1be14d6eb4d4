"""File systems of their own for tests in which a disk must be full or read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*words: str) -> None:
    """Run the command `mount`; the test is skipped where nothing may be mounted."""
    try:
        mounted = subprocess.run(["mount", *words], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted: {mounted.stderr.strip()}")


@contextmanager
def make_disk(folder: Path, size: str, *unmount: str) -> Iterator[Path]:
    """Make a folder a file system of a size (`400k`, `4m`) until the block ends. `unmount`: options."""
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", *unmount, str(folder)], check=True)
