"""`job.json`: the source of a streaming job, and what its checkpoints depend on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.failures import RunFailed

FOLDER = "_stream"
"""Below a job's home, which is an output unless another folder is given: everything that a streaming job
keeps for itself."""
JOB = "job.json"
_DESCRIBED = {"streams", "outputs", "group"}
"""What every version of a job's description has below `depends`."""


@dataclass(frozen=True)
class JobDescription:
    """What `job.json` says of a job: its source, and what its checkpoints depend on."""

    source: str
    group: str
    streams: tuple[str, ...]
    outputs: tuple[str, ...]
    settle_seconds: int = 0

    @classmethod
    def read(cls, home: Path) -> "JobDescription | None":
        """The description in a job's home; None if no streaming job ever had this home.

        Raises:
            RunFailed: as `read_job`.
        """
        if not (job := read_job(home)):
            return None
        depends = job["depends"]
        source = job.get("source", job.get("redis", ""))  # earlier versions wrote it as redis
        streams, outputs = tuple(depends["streams"]), tuple(depends["outputs"])
        return cls(source, depends["group"], streams, outputs, job.get("settle_seconds", 0))


def read_job(home: Path) -> dict[str, Any]:
    """What is in the `job.json` of a job's home; nothing if there is none.

    Raises:
        RunFailed: it is damaged.
    """
    path = home / FOLDER / JOB
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
        if _DESCRIBED.issubset(job["depends"]):
            return dict(job)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise RunFailed(
        f"{path} is damaged, so the job that its checkpoints belong to is unknown",
        "put back a copy of the file; else remove it and run `kpiflow stream` with --fresh: it reads again, "
        "and no message is lost or counted twice",
    )
