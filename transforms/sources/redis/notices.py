"""What a reader notices about its streams: counted for `kpiflow status`, and logged once in a while."""

import time
from collections.abc import Iterable, Mapping

from transforms.core.events import SOURCE_WARNING, log_event
from transforms.sources.reader_status import Notices

_REPEAT_SECONDS = 60.0


class StreamNotices:
    """The notices of some streams since this reader was opened. `counts` is never changed: each notice makes
    a new one."""

    def __init__(self, streams: Iterable[str]) -> None:
        self.counts: Mapping[str, Notices] = {key: Notices() for key in streams}
        self._warned: dict[str, float] = {}

    def count(self, key: str, notices: Notices) -> None:
        """Count notices of a stream."""
        self.counts = {**self.counts, key: self.counts[key].plus(notices)}

    def warn(self, key: str, notices: Notices, warning: str) -> None:
        """Count notices of a stream, and log the warning unless one of this stream was logged lately."""
        self.count(key, notices)
        now = time.monotonic()
        if now - self._warned.get(key, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._warned[key] = now
            log_event(SOURCE_WARNING, message=warning)
