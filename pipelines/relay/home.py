"""What a relay keeps in its folder: late reports, and `_relay` with its status and the record of its runs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse
from pipelines.jobs.lock import is_locked
from transforms.core.status_files import read_status, write_status

FOLDER = "_relay"
"""Below a relay's home: everything that it keeps for itself."""
STATUS = "status.json"
READ_SECONDS = 60.0
"""The export is read every few seconds; longer ago than this it is not read."""


@dataclass
class Situation:
    """What a relay knows about itself now.

    Attributes:
        state: waiting (another relay is active), relaying.
        export_error, live_error, redis_error: what is wrong now.
        connected: whether the socket is open; `connections`: how often it was opened in this run.
        behind: reports of the export that are not relayed, as it says.
        read_at: when the export was read last; `ahead_seconds`: how far its clock was ahead of ours then.
        certificate_until: when our certificate expires.
    """

    state: str = "waiting"
    export_error: str | None = None
    live_error: str | None = None
    redis_error: str | None = None
    connected: bool = False
    connections: int = 0
    behind: int | None = None
    read_at: float | None = None
    ahead_seconds: float | None = None
    certificate_until: float | None = None

    @property
    def problems(self) -> list[str]:
        """What is wrong now, the worst first: without Redis nothing is relayed."""
        return [text for text in (self.redis_error, self.export_error, self.live_error) if text]


@dataclass(frozen=True)
class RelayStatus:
    """How a relay does, or did when it ended.

    Attributes:
        running: whether its process runs.
        at: when it was written, in seconds since 1970.
        export, live, redis, stream: what it relays; without secrets.
        situation: as Situation has it.
        totals: over all runs of all relays of the stream.
        backfill: the command that puts late reports into the tables; None without late reports.
    """

    running: bool
    at: float
    export: str
    live: str | None
    redis: str
    stream: str
    situation: Situation
    totals: dict[str, int]
    backfill: str | None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON's types."""
        return asdict(self)

    def write(self, home: Path) -> None:
        """Replace the status file."""
        write_status(home / FOLDER / STATUS, self.as_json())


def is_relay(home: Path) -> bool:
    """Whether a relay has this home."""
    return (home / FOLDER / STATUS).is_file()


def read_relay_status(home: Path) -> RelayStatus:
    """How the relay of a home does.

    Raises:
        WrongUse: no relay ever had this home.
    """
    found = read_status(home / FOLDER / STATUS, RelayStatus)
    if found is None:
        raise WrongUse(
            f"no relay has written {home}", f"`kpiflow relay --export URL --archive {home}` starts one"
        )
    return replace(found, running=is_locked(home))


def find_relay_reasons(status: RelayStatus, now: float) -> Iterator[str]:
    """Why a relay does not do its work, in words; nothing if it does, or waits while another one does."""
    found = status.situation
    if not status.running:
        yield "the relay does not run"
        return
    yield from found.problems
    if found.state == "relaying" and now - (found.read_at or 0.0) > READ_SECONDS:
        yield f"the export was not read for {READ_SECONDS:.0f} s"
    if found.state == "relaying" and status.live is not None and not found.connected:
        yield "the socket is closed"
