"""How a graph is run on Flink: the engine's options, and what Java, Flink and Beam are told because of them."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runners.direct import TakenOptionError
from runners.flink.checkpoints import FOLDER
from runners.flink.jars import DEPLOY

_CHECKPOINT_TIMEOUT_SECONDS = 120
_JOB_SERVER_SECONDS = 120
_TAKEN = frozenset({
    "--runner", "--job_endpoint", "--artifact_endpoint", "--environment_type", "--environment_config", "--environment_options",
    "--streaming", "--flink_master", "--flink_conf_dir", "--savepoint_path", "--allow_non_restored_state",
    "--checkpointing_interval", "--parallelism", "--max_parallelism", "--sdk_worker_parallelism", "--job_name",
})  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """How to run a graph on Flink.

    Attributes:
        folder: what the run keeps; of one run at a time.
        checkpoint_seconds: from one checkpoint to the next.
        parallelism: how many parts each step is cut into. Checkpoints of another parallelism are not gone on from.
        workers: Python processes on each machine; the graph's steps are spread over them.
        master: `host:port` of a Flink cluster's REST interface; None runs one here. The folder must be one that the cluster shares.
        environment: `host:port` of the worker pool as the cluster's machines reach it; needed with `master`.
        patience_seconds: how long a step may wait for what it writes to: no checkpoint completes meanwhile, and none is given up.
        heap_mb: Java's heap, in MB.
        renew_seconds: after this time the job is stopped with a checkpoint and goes on from it, which takes some seconds. Flink
            keeps about 2 kB for good of each session of a source that reads in sessions, and only a new start lets it use them
            again: so this bounds heap and checkpoints.
        beam_options: more options of Beam; they may not be those that this engine decides.
        hold: file descriptors that every process of the run inherits.
        jars: folder of Flink's jars, if not where `make flink` puts them.
    """

    folder: Path
    checkpoint_seconds: float = 10.0
    parallelism: int = 1
    workers: int = 2
    master: str | None = None
    environment: str | None = None
    patience_seconds: float = 0.0
    heap_mb: int = 1024
    renew_seconds: float = 1800.0
    beam_options: tuple[str, ...] = ()
    hold: tuple[int, ...] = ()
    jars: Path | None = None


def refuse_taken(beam_options: Sequence[str]) -> None:
    """Raise TakenOptionError if there are Beam options that the engine decides itself."""
    taken = sorted({option.partition("=")[0] for option in beam_options} & _TAKEN)
    if taken:
        raise TakenOptionError(
            f"the engine decides {', '.join(taken)} itself: leave the option out, or use kpiflow's own setting"
        )


@contextmanager
def folders(folder: Path) -> Iterator[None]:
    """Make the folders of a run. Temporary files, those of this process too, are below it, and are removed at the end.

    What a run that was killed left there is removed by the next one.
    """
    temporary, before = folder / "tmp", tempfile.tempdir
    shutil.rmtree(temporary, ignore_errors=True)
    for name in ("conf", "logs", temporary.name, FOLDER):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(temporary)  # Beam stages a job's files there, and leaves them
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(temporary, ignore_errors=True)


def configure(engine: Engine, restored: Path | None) -> None:
    """Write Flink's configuration: kpiflow's defaults and what is this job's."""
    own = {
        "state.checkpoints.dir": (engine.folder / FOLDER).as_uri(),
        "io.tmp.dirs": str(engine.folder / "tmp"),
    }
    if restored is not None and engine.master is None:
        own["execution.savepoint.path"] = restored.as_uri()
    lines = [f"{name}: {value}\n" for name, value in own.items()]
    defaults = (DEPLOY / "flink-conf.yaml").read_text(encoding="utf-8")
    (engine.folder / "conf" / "flink-conf.yaml").write_text(
        defaults + "\n# This job.\n" + "".join(lines), encoding="utf-8"
    )


def make_java_arguments(engine: Engine, jars: Path) -> list[str]:
    """What Java is to run: the job server, on free ports that it tells in its log."""
    temporary = engine.folder / "tmp"
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "util", "nio", "time")]
    return [
        f"-Xmx{engine.heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        # What a renewal or a backlog needed for a moment goes back to the machine. Without these the heap only grows.
        "-XX:+UseG1GC",
        "-XX:G1PeriodicGCInterval=60000",
        "-XX:MinHeapFreeRatio=10",
        "-XX:MaxHeapFreeRatio=30",
        # Java only hands bytes on here: compiling it for speed costs a small machine more, for minutes, than it gains.
        "-XX:TieredStopAtLevel=1",
        f"-Djava.io.tmpdir={temporary}",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        *opened,
        "-cp",
        f"{jars}/*",
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        "--job-host=localhost",
        "--job-port=0",
        "--artifact-port=0",
        "--expansion-port=0",
        f"--artifacts-dir={temporary / 'artifacts'}",
        f"--flink-master={engine.master or '[local]'}",
    ]


def options(engine: Engine, name: str, job_port: str, pool_port: int, restored: Path | None) -> list[str]:
    """The Beam options of a job of that name, which goes on from the checkpoint `restored`."""
    interval = round(engine.checkpoint_seconds * 1000)
    timeout = round(1000 * engine.patience_seconds) + max(1000 * _CHECKPOINT_TIMEOUT_SECONDS, 10 * interval)
    return [
        "--streaming",
        f"--job_name={name}",
        f"--job_endpoint=localhost:{job_port}",
        f"--job_server_timeout={_JOB_SERVER_SECONDS}",  # so long a Java process that died early would go unnoticed
        "--environment_type=EXTERNAL",
        f"--environment_config={engine.environment or f'localhost:{pool_port}'}",
        f"--sdk_worker_parallelism={engine.workers}",
        f"--parallelism={engine.parallelism}",
        # Each read session leaves a table of state for each key group behind: with Flink's 128 they fill the heap within hours.
        f"--max_parallelism={engine.parallelism}",
        f"--flink_conf_dir={engine.folder / 'conf'}",
        f"--checkpointing_interval={interval}",
        f"--min_pause_between_checkpoints={interval // 2}",
        f"--checkpoint_timeout_millis={timeout}",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        "--max_bundle_time_mills=20",  # a bundle's rows go on when it ends: Flink's own 1 s would be their latency
        *([f"--savepoint_path={restored.as_uri()}"] if restored and engine.master is not None else []),
        *engine.beam_options,
    ]
