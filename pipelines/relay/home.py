"""What a relay keeps in its folder: late reports, and `_relay` with its status and the record of its runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse
from pipelines.jobs.lock import is_locked
from pipelines.relay.active import Situation
from transforms.core.status_files import read_status, write_status

FOLDER = "_relay"
"""Below a relay's home: everything that it keeps for itself."""
STATUS = "status.json"


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
    found = read_status(home / FOLDER / STATUS)
    if found is None:
        raise WrongUse(
            f"no relay has written {home}", f"`kpiflow relay --export URL --archive {home}` starts one"
        )
    situation = Situation(**found.pop("situation"))
    return RelayStatus(**found | {"situation": situation, "running": is_locked(home)})
