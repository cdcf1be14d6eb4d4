"""What is made of files, and made again when they change."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from transforms.core.durable_files import FileVersion, read_version
from transforms.core.events import Event, log_event

_Made = TypeVar("_Made")


class FollowedFiles(Generic[_Made]):
    """What `make` makes of files as they are now.

    A new version that cannot be used is logged as `event`, once, and what was made before stays in use.

    `problem`: why a new version is not used; None if there is none.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        make: Callable[[], _Made],
        event: Event,
        errors: tuple[type[Exception], ...] = (OSError, ValueError),
    ) -> None:
        self._paths, self._make, self._event, self._errors = paths, make, event, errors
        self._versions: list[FileVersion] = []
        self._made: _Made | None = None
        self.problem: str | None = None

    def current(self) -> _Made:
        """What was made of the newest version that can be used.

        Raises:
            Exception: one of `errors`, if no version could ever be used.
        """
        try:
            versions = [read_version(path.stat()) for path in self._paths]
            if versions != self._versions or self._made is None:
                made = self._make()
                self._made, self._versions, self.problem = made, versions, None
        except self._errors as error:
            if self._made is None:
                raise
            if self.problem is None:
                log_event(self._event, error=f"{self._paths[0]}: {error}")
            self.problem = str(error)
        return self._made
