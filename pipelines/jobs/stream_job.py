"""What a streaming job is asked to do, the settings that suit it, and `job.json`, which describes it."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse
from pipelines.jobs.job_description import FOLDER, JOB, read_job
from pipelines.jobs.job_status import BEFORE, READERS, SINKS
from pipelines.jobs.run_record import begin_run
from pipelines.outputs import Outputs
from pipelines.settings import Settings
from runners.flink.checkpoints import find_newest_checkpoint, remove_other_jobs
from transforms.core.durable_files import replace_file
from transforms.history.time_rules import MAX_FUTURE_SECONDS
from transforms.sources.source import WATERMARK_DELAY_SECONDS

GRAPH_VERSION = 8
"""Raised when what checkpoints hold changes, so that older ones are refused. A test asks for it."""


@dataclass(frozen=True)
class StreamRequest:
    """What a streaming job is asked to do, beside the settings. It keeps its own files in `home`.

    `kinds`: the schemas that were given for some of the streams; `encodings`: those of streams that are not
    JSON.
    """

    url: str
    streams: tuple[str, ...]
    group: str
    outputs: tuple[str, ...]
    home: Path
    archive: Path | None = None
    live: bool = False
    fresh: bool = False
    until_idle: bool = False
    master: str | None = None
    environment: str | None = None
    beam_options: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)
    metrics: str | None = None

    @property
    def folder(self) -> Path:
        """Where the job keeps everything, in its home."""
        return self.home.absolute() / FOLDER


def fit_settings(settings: Settings) -> Settings:
    """The settings of a stream.

    With one task, one shard keeps batches whole; several tasks need some shards each for an even load.

    Raises:
        WrongUse: a setting would make baselines inexact.
    """
    if settings.future_seconds > MAX_FUTURE_SECONDS:
        exact = f"the baselines of a stream are exact up to {MAX_FUTURE_SECONDS}"
        fix = f"give a stream at most --future-seconds {MAX_FUTURE_SECONDS}"
        raise WrongUse(f"future_seconds is {settings.future_seconds}: {exact}", fix)
    if "shards" in settings.model_fields_set:
        return settings
    shards = 1 if settings.parallelism == 1 else 4 * settings.parallelism
    return settings.model_copy(update={"shards": shards})


def compute_settle_seconds(settings: Settings, outputs: Outputs) -> int:
    """How long after the last message all tables hold it.

    A 5 s window ends and is gathered, an hour's early pane is due, and the slowest output gathers.
    """
    flush = settings.flush_seconds
    return max(WATERMARK_DELAY_SECONDS + 5 + flush, 3 * flush + 1) + outputs.gather_seconds + 5


def prepare_home(job: StreamRequest, outputs: Outputs, source: str, settings: Settings) -> str:
    """Check that the checkpoints belong to this job and write `job.json`; returns the job's unique name.

    Raises:
        WrongUse: there are checkpoints of a job that differs in what they depend on.
        RunFailed: as `read_job`.
    """
    file = job.folder / JOB
    before = read_job(job.home)
    depends = _list_dependencies(job, outputs, settings)
    changes = _list_changes(before.get("depends", {}), depends)
    if before and changes and not job.fresh and find_newest_checkpoint(job.folder):
        raise WrongUse(
            f"the checkpoints of {job.home} belong to another graph: {changes}",
            "run it as it was, or with --fresh: it then reads again from before the group's offset, and no "
            "message is lost or counted twice",
        )
    owner: str = before.get("owner") or uuid.uuid4().hex
    description = {
        "owner": owner,
        "source": source,
        "archive": job.archive and str(job.archive.absolute()),
        "settle_seconds": compute_settle_seconds(settings, outputs),
        "depends": depends,
    }
    if job.fresh:  # before the description, which must never vouch for the checkpoints of another job
        remove_other_jobs(job.folder)
    replace_file(file, (json.dumps(description, indent=2) + "\n").encode())
    begin_run(job.folder, settings.checkpoint_seconds, settings.renew_seconds)
    _set_status_aside(job.folder)
    return owner


def _list_dependencies(job: StreamRequest, outputs: Outputs, settings: Settings) -> dict[str, Any]:
    """Everything that the state in a checkpoint depends on."""
    return {
        "graph": GRAPH_VERSION,
        "streams": sorted(job.streams),
        "group": job.group,
        "outputs": [sink.name for sink in outputs.sinks],
        "shards": settings.shards,
        "parallelism": settings.parallelism,
        "flush_seconds": settings.flush_seconds,
        "gather_seconds": [sink.gather_seconds for sink in outputs.sinks],
        "archive": job.archive is not None,
        "live": job.live,
    }


def _list_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [name for name, value in now.items() if value != before.get(name)]
    return "; ".join(f"{name} is {now[name]!r} now and was {before.get(name)!r}" for name in changed)


def _set_status_aside(folder: Path) -> None:
    """Keep the status of earlier runs apart, so that it does not count as this run's."""
    before = folder / READERS / BEFORE
    before.mkdir(parents=True, exist_ok=True)
    (folder / SINKS).mkdir(exist_ok=True)
    for path in (folder / READERS).glob("reader-*.json"):
        path.replace(before / path.name)
    for path in (folder / SINKS).glob("sink-*.json"):
        path.unlink()
