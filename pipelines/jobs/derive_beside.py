"""Tables are derived beside a stream, in a process of its own of low priority, every `derive_seconds`.

The process is started once there is something to derive, started again if it ends, and never touches the
stream: what fails is in its state (`kpiflow status`). It ends with the stream, however that ends.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.jobs.derive_state import should_derive
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from runners.flink.processes import Child, Log, start
from transforms.core.events import format_output, is_json

WRITE_MARGIN_SECONDS = 5
"""Folders hold the rows of a message so long after twice the seconds for which they are gathered."""
LOG = "derive.log"
"""Below the folder of the stream's job: what the process prints."""


@contextmanager
def derive_beside(folder: Path, outputs: Outputs, settings: Settings) -> Iterator[Callable[[], None]]:
    """Yield what the job calls every second: it starts the process when it is due. At the end it is stopped.

    `folder`: where the stream's job keeps its own files.
    """
    beside = _Beside(folder, outputs, settings)
    try:
        yield beside.follow
    finally:
        beside.stop()


class _Beside:
    def __init__(self, folder: Path, outputs: Outputs, settings: Settings) -> None:
        self._folder, self._folders, self._settings = folder, outputs.folders, settings
        self._child: Child | None = None
        self._due = 0.0

    def follow(self) -> None:
        """Start the process if none runs, and there is something to derive."""
        if time.monotonic() < self._due or (self._child is not None and self._child.exit_code is None):
            return
        self._due = time.monotonic() + self._settings.derive_seconds
        chosen = [
            str(path.absolute()) for path in self._folders if should_derive(path, self._settings.derive)
        ]
        if chosen:
            self._child = start(
                self._make_command(chosen), Log(self._folder / LOG, form=format_output if is_json() else None)
            )

    def stop(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.stop()

    def _make_command(self, folders: list[str]) -> list[str]:
        settings = self._settings
        task = {
            "folder": str(self._folder),
            "outputs": folders,
            "settings": settings.derived_settings(),
            "seconds": settings.derive_seconds,
            "write_seconds": 2 * settings.flush_seconds + WRITE_MARGIN_SECONDS,
            "memory_mb": settings.derive_memory_mb,
            "json": is_json(),
            "master_key": settings.master_key,
        }
        return [sys.executable, "-m", "pipelines.jobs.derive_loop", json.dumps(task)]
