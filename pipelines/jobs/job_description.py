"""`job.json`: the source of a streaming job, and what its checkpoints depend on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pipelines.failures import RunFailed
from transforms.core.typed_json import Count, convert, parse_json

FOLDER = "_stream"
"""Below a job's home, which is an output unless another folder is given: everything that a streaming job
keeps for itself."""
JOB = "job.json"


class Dependencies(TypedDict):
    """What every version of a job's description has below `depends`."""

    streams: list[str]
    outputs: list[str]
    group: str


class JobFile(TypedDict):
    """What every version of `job.json` has, and what is read of it; earlier versions called the source
    `redis`."""

    depends: Dependencies
    source: NotRequired[str]
    redis: NotRequired[str]
    settle_seconds: NotRequired[Count]
    archive: NotRequired[str | None]
    owner: NotRequired[str]


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
        source = job.get("source", job.get("redis", ""))
        streams, outputs = tuple(depends["streams"]), tuple(depends["outputs"])
        return cls(source, depends["group"], streams, outputs, job.get("settle_seconds", 0))


def read_job(home: Path) -> dict[str, Any]:
    """What is in the `job.json` of a job's home; nothing if there is none.

    Raises:
        RunFailed: it is damaged.
    """
    path = home / FOLDER / JOB
    try:
        job = parse_json(path.read_bytes(), dict[str, Any])
        convert(job, JobFile)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunFailed(
            f"{path} is damaged ({error}), so the job that its checkpoints belong to is unknown",
            "put back a copy of the file; else remove it and run `kpiflow stream` with --fresh: it reads "
            "again, and no message is lost or counted twice",
        ) from error
    return job
