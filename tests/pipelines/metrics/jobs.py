"""Homes of streaming jobs as tests of metrics need them: state files, and no job."""

import json
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.jobs.derive_state import HOME, write_state
from pipelines.jobs.job_description import FOLDER, JOB
from pipelines.jobs.job_status import OUTCOMES, READERS, SINKS
from pipelines.jobs.lock import lock_folders
from pipelines.jobs.run_record import PROCESSES, RunKeeper, begin_run
from runners.progress import Progress
from transforms.core.errors import Unavailable
from transforms.core.process_stats import LATENCY_BOUNDS, ProcessStats
from transforms.derived.data_quality import TABLE
from transforms.sinks.parquet.file_merge import write_rows
from transforms.sources.source import SourceState, StreamState
from transforms.storage.local_folder import LocalFolder

KEY = "layer4_kpi_reports"


class Source:
    """A live source that says how many messages it ever had."""

    added = 120
    is_up = True

    def read_state(self) -> SourceState:
        if not self.is_up:
            raise Unavailable("it is gone")
        return SourceState({KEY: StreamState(self.added, 0.0)})


class Home:
    """A job that reads KEY and writes to its own home; at first it runs and all is well."""

    def __init__(self, home: Path, url: str = "redis://localhost:1") -> None:
        self.path, self.folder = home, home / FOLDER
        self._lock = ExitStack()
        depends = {"streams": [KEY], "group": "kpiflow", "outputs": [str(home)]}
        self.write(JOB, {"source": url, "depends": depends})
        begin_run(self.folder, 10, 1800)
        self.keeper = RunKeeper(self.folder)
        self.keeper.follow(Progress("running"))
        self.place_reader(80, 100)
        self.write_sink()
        self.complete_checkpoint()
        self.write(f"{OUTCOMES}/kpi_reports.json", {"totals": {"": 70}, "open": {}})
        self.write(f"{OUTCOMES}/quarantine.json", {"totals": {"schema": 6, "json": 3}, "open": {}})
        self.write(f"{OUTCOMES}/trimmed.json", {"totals": {"": 20}, "open": {}})
        self.measure()
        self.run()

    def write(self, name: str, content: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def run(self) -> None:
        """Hold the job's lock."""
        self._lock.enter_context(lock_folders(self.path))

    def stop(self) -> None:
        self._lock.close()

    def place_reader(self, index: int, added: int, seconds_ago: float = 0.0) -> None:
        now = _millis(seconds_ago)
        place = {"position": f"{now}-0", "index": index, "added": added, "lost": 0}
        times = {"newest": now, "watermark": now - 10_000, "time": now}
        self.write(f"{READERS}/reader-0.json", {"reader": 0, "streams": {KEY: place}, "read": 5, **times})

    def write_sink(self, waiting_seconds: float | None = None, behind: float = 2.0) -> None:
        waiting = None if waiting_seconds is None else _millis(waiting_seconds)
        written = {"sink": str(self.path), "table": "kpi_reports", "time": _millis(0), "rows": 70}
        fault = {"waiting_since": waiting, "error": waiting and "the disk is gone"}
        self.write(f"{SINKS}/sink-0-kpi_reports.json", written | {"newest": _millis(behind)} | fault)

    def write_quality(self, minutes_ago: int, received: int, incomplete: int) -> None:
        """A row of data_quality of a minute."""
        table = TABLE.table
        start = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).replace(second=0, microsecond=0)
        counts = {"received": received, "incomplete": incomplete, "completeness": 1 - incomplete / received}
        row = dict.fromkeys(table.schema.names) | counts | {"granularity": "1m", "source": KEY}
        row |= {"time_window_start": start, "time_window_end": start + timedelta(minutes=1)}
        row |= {"completeness_threshold": 0.98}
        write_rows(table, LocalFolder(self.path), [pa.RecordBatch.from_pylist([row], table.schema)], 60)

    def derive(self, **analysis: float | None) -> None:
        """The state of a pass of deriving that analysed rows."""
        (self.path / HOME).mkdir(exist_ok=True)
        write_state(self.path, None, analysis=analysis)

    def complete_checkpoint(self, seconds_ago: float = 0.0) -> None:
        path = self.folder / "checkpoints" / "job" / "chk-1" / "_metadata"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - seconds_ago,) * 2)

    def measure(self) -> None:
        stats = ProcessStats()
        stats.latency["validated"].add([0, 0, 0, 9, *[0] * (len(LATENCY_BOUNDS) - 4), 1], 400.0)
        stats.attempts.update({"redis": 200, str(self.path): 10})
        stats.errors.update({"redis": 4})
        stats.expired.update({"task": 5})
        stats.cpu["worker"] = 12.5
        self.write(f"{PROCESSES}/1-1.json", stats.as_json())


def _millis(seconds_ago: float) -> int:
    return int((time.time() - seconds_ago) * 1000)
