"""How to run a graph on Flink: the engine's options, and those of Java, Flink and Beam that follow."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runners.direct import TakenOptionError
from runners.flink.checkpoints import FOLDER
from runners.flink.jars import DEPLOY
from runners.flink.processes import LOOPBACK, Form
from runners.flink.workers import Within

_CHECKPOINT_TIMEOUT_SECONDS = 120
_JOB_SERVER_SECONDS = 120
_TAKEN = frozenset({
    "--runner", "--job_endpoint", "--artifact_endpoint", "--environment_type", "--environment_config",
    "--environment_options", "--streaming", "--flink_master", "--flink_conf_dir", "--savepoint_path",
    "--allow_non_restored_state", "--checkpointing_interval", "--parallelism", "--max_parallelism",
    "--sdk_worker_parallelism", "--job_name",
})  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """How to run a graph on Flink.

    Attributes:
        folder: where the run keeps its files, an absolute path; for one run at a time.
        parallelism: parallel tasks of each step.
        workers: Python processes on each machine; the graph's steps are spread over them.
        master: `host:port` of a Flink cluster's REST interface; None runs Flink here.
        environment: `host:port` of the worker pool as the cluster's machines reach it; needed with `master`.
        heap_mb: Java's heap, in MB.
        beam_options: more options of Beam, except those that this engine decides.
        keep_open: file descriptors that every process of the run inherits.
        jars: folder of Flink's jars, if not where `make flink` puts them.
        within: makes a context in which each worker works, if Flink runs here; it is pickled.
        form: makes a line of a log of what a process writes (`runners.flink.processes.Log`).
    """

    folder: Path
    parallelism: int = 1
    workers: int = 2
    master: str | None = None
    environment: str | None = None
    heap_mb: int = 1024
    beam_options: tuple[str, ...] = ()
    keep_open: tuple[int, ...] = ()
    jars: Path | None = None
    within: Within | None = None
    form: Form | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.absolute())


@dataclass(frozen=True)
class StreamEngine(Engine):
    """How to run a stream. Checkpoints of another parallelism cannot be used.

    With `master` the folder must be shared with the cluster.

    Attributes:
        checkpoint_seconds: from one checkpoint to the next.
        patience_seconds: how long a step may wait for an output. No checkpoint completes meanwhile, and none
            times out.
        renew_seconds: after this time the job is stopped with a checkpoint and goes on from it, which takes
            some seconds. Flink never frees about 2 kB for each session of a source that reads in sessions;
            only a new job does. So this bounds the heap and the checkpoints.
    """

    checkpoint_seconds: float = 10.0
    patience_seconds: float = 0.0
    renew_seconds: float = 1800.0


@dataclass(frozen=True)
class BatchEngine(Engine):
    """How to run a bounded graph to its end.

    Attributes:
        managed_mb: memory in MB outside of Java's heap in which the embedded Flink sorts and groups; what
            does not fit is spilled to disk.
    """

    managed_mb: int = 512


def refuse_taken(beam_options: Sequence[str]) -> None:
    """Raise TakenOptionError if there are Beam options that the engine decides itself."""
    taken = sorted({option.partition("=")[0] for option in beam_options} & _TAKEN)
    if taken:
        raise TakenOptionError(
            f"the engine decides {', '.join(taken)} itself: leave it out, or use kpiflow's own setting"
        )


@contextmanager
def make_folders(folder: Path) -> Iterator[None]:
    """Make the folders of a run. Temporary files, those of this process too, are below it until it ends.

    What a killed run left there is removed by the next one.
    """
    temporary, before = folder / "tmp", tempfile.tempdir
    shutil.rmtree(temporary, ignore_errors=True)
    for name in ("conf", "logs", temporary.name):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(temporary)  # Beam stages a job's files there and leaves them
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(temporary, ignore_errors=True)


def write_stream_configuration(engine: StreamEngine, restored: Path | None) -> None:
    """Write Flink's configuration for a stream that goes on from the checkpoint `restored`."""
    checkpoints = engine.folder / FOLDER
    checkpoints.mkdir(exist_ok=True)
    own = {"state.checkpoints.dir": checkpoints.as_uri()}
    if restored is not None and engine.master is None:
        own["execution.savepoint.path"] = restored.as_uri()
    _write_configuration(engine, "flink-conf.yaml", own)


def write_batch_configuration(engine: BatchEngine) -> None:
    """Write Flink's configuration for a bounded graph."""
    _write_configuration(
        engine, "batch-conf.yaml", {"taskmanager.memory.managed.size": f"{engine.managed_mb}m"}
    )


def _write_configuration(engine: Engine, defaults: str, own: dict[str, str]) -> None:
    """Write kpiflow's defaults and the options of this job."""
    own = {"io.tmp.dirs": str(engine.folder / "tmp"), **own}
    lines = [f"{name}: {value}\n" for name, value in own.items()]
    (engine.folder / "conf" / "flink-conf.yaml").write_text(
        (DEPLOY / defaults).read_text(encoding="utf-8") + "\n# This job.\n" + "".join(lines), encoding="utf-8"
    )


def make_java_arguments(engine: Engine, jars: Path) -> list[str]:
    """Java's arguments for the job server, on free ports that it writes to its log."""
    temporary = engine.folder / "tmp"
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "nio", "time")]
    return [
        f"-Xmx{engine.heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        # Heap that a renewal or a backlog needed for a moment goes back to the system; else it only grows.
        "-XX:+UseG1GC",
        "-XX:G1PeriodicGCInterval=60000",
        "-XX:MinHeapFreeRatio=10",
        "-XX:MaxHeapFreeRatio=30",
        # Java only passes bytes on here: compiling it for speed costs a small machine minutes and gains less.
        "-XX:TieredStopAtLevel=1",
        f"-Djava.io.tmpdir={temporary}",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        *opened,
        "-cp",
        f"{jars}/*",
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        f"--job-host={LOOPBACK}",
        "--job-port=0",
        "--artifact-port=0",
        "--expansion-port=0",
        "--artifacts-dir",  # a value after = could not have blanks
        str(temporary / "artifacts"),
        f"--flink-master={engine.master or '[local]'}",
    ]


def make_stream_options(
    engine: StreamEngine, name: str, job_port: str, pool_port: int, restored: Path | None
) -> list[str]:
    """The Beam options of a streaming job of that name, which goes on from the checkpoint `restored`."""
    interval = round(engine.checkpoint_seconds * 1000)
    timeout = round(1000 * engine.patience_seconds) + max(1000 * _CHECKPOINT_TIMEOUT_SECONDS, 10 * interval)
    return [
        "--streaming",
        *_make_job_options(engine, name, job_port, pool_port),
        # Each read session leaves a table of state per key group: Flink's 128 would fill the heap in hours.
        f"--max_parallelism={engine.parallelism}",
        f"--checkpointing_interval={interval}",
        f"--min_pause_between_checkpoints={interval // 2}",
        f"--checkpoint_timeout_millis={timeout}",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        # A bundle's rows go on when it ends: Flink's default of 1 s would be added to their latency.
        "--max_bundle_time_mills=20",
        *([f"--savepoint_path={restored.as_uri()}"] if restored and engine.master is not None else []),
        *engine.beam_options,
    ]


def make_batch_options(engine: BatchEngine, name: str, job_port: str, pool_port: int) -> list[str]:
    """The Beam options of a batch job of that name."""
    return [*_make_job_options(engine, name, job_port, pool_port), *engine.beam_options]


def _make_job_options(engine: Engine, name: str, job_port: str, pool_port: int) -> list[str]:
    return [
        f"--job_name={name}",
        f"--job_endpoint={LOOPBACK}:{job_port}",
        f"--job_server_timeout={_JOB_SERVER_SECONDS}",  # how late an early death of Java is noticed
        "--environment_type=EXTERNAL",
        f"--environment_config={engine.environment or f'{LOOPBACK}:{pool_port}'}",
        f"--sdk_worker_parallelism={engine.workers}",
        f"--parallelism={engine.parallelism}",
        f"--flink_conf_dir={engine.folder / 'conf'}",
    ]
