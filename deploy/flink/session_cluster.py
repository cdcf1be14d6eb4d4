"""A Flink cluster on this machine without Docker: JobManager, TaskManagers and Python workers, until Ctrl-C.

    .venv/bin/python deploy/flink/session_cluster.py

It prints the options that a job needs to use it. A TaskManager that ends is started again. Flink
comes from PyPI (apache-flink-libraries, 230 MB, fetched once); its version must match the job server's jars.
"""

import argparse
import io
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
sys.path.insert(0, str(ROOT))

from runners.flink.jars import find_java  # noqa: E402 (a script outside the packages)
from runners.flink.processes import LOOPBACK, Child, Log, find_free_port, start  # noqa: E402
from runners.flink.rest import Rest, Unreachable  # noqa: E402
from runners.flink.workers import serve_pool  # noqa: E402

HOME = ROOT / ".flink" / "session"
PACKAGE = "apache-flink-libraries==1.19.*"
START_SECONDS = 120.0
HEAP_MB, MANAGED_MB = 512, 256
"""Memory of a TaskManager: Java's heap, and what batches sort and group in."""
PROCESS_MB = HEAP_MB + MANAGED_MB + 472
"""All of its memory, with the parts of `make_task_manager_options`."""
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
OPENED = [
    f"--add-opens=java.base/java.{name}=ALL-UNNAMED"
    for name in ("lang", "net", "io", "nio", "text", "time", "util")
]


def fetch(folder: Path) -> Path:
    """The folder of Flink's jars, which are taken from the package of PyPI if they are missing."""
    lib = folder / "lib"
    if any(lib.glob("flink-dist-*.jar")):
        return lib
    print(f"fetching {PACKAGE} into {folder} (230 MB, once) ...", flush=True)
    lib.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, PACKAGE],
            check=True,
        )
        (archive,) = Path(place).glob("*.tar.gz")
        with tarfile.open(archive) as package:
            for member in package:
                if "/deps/lib/" in member.name and member.name.endswith(".jar"):
                    content = package.extractfile(member) or io.BytesIO()
                    (lib / Path(member.name).name).write_bytes(content.read())
    return lib


def write_configuration(folder: Path, ports: tuple[int, int], slots: int) -> None:
    """Write the cluster's configuration: little memory, on the loopback only."""
    rest, rpc = ports
    own = {
        "rest.address": LOOPBACK,
        "rest.bind-address": LOOPBACK,
        "rest.port": rest,
        "jobmanager.rpc.address": LOOPBACK,
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": LOOPBACK,
        "jobmanager.memory.process.size": "1000m",
        "taskmanager.host": LOOPBACK,
        "taskmanager.bind-host": LOOPBACK,
        "taskmanager.memory.process.size": f"{PROCESS_MB}m",
        "taskmanager.memory.managed.size": f"{MANAGED_MB}m",
        "taskmanager.numberOfTaskSlots": slots,
        # A batch takes it from the cluster. kpiflow ends a job that fails again and again.
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        # A TaskManager that was killed is noticed at the second heartbeat that does not reach it.
        "heartbeat.interval": "2000",
        "io.tmp.dirs": folder / "tmp",
        "metrics.fetcher.update-interval": 1000,
        "web.refresh-interval": 1000,
    }
    for name in ("conf", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "flink-conf.yaml").write_text(
        "".join(f"{name}: {value}\n" for name, value in own.items())
    )


def start_java(folder: Path, lib: Path, name: str, main: str, words: list[str], options: list[str]) -> Child:
    """Start one of the cluster's Java processes."""
    command = [
        find_java(),
        *words,
        *OPENED,
        "-cp",
        f"{lib}/*",
        main,
        "--configDir",
        str(folder / "conf"),
        *options,
    ]
    return start(command, Log(folder / "logs" / f"{name}.log"))


def make_task_manager_options() -> list[str]:
    """The memory of a TaskManager, part by part, as its start script would compute it."""
    parts = {
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.heap.size": f"{HEAP_MB - 128}m",
        "taskmanager.memory.task.off-heap.size": "0b",
        "taskmanager.memory.managed.size": f"{MANAGED_MB}m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.jvm-metaspace.size": "160m",
        "taskmanager.memory.jvm-overhead.min": "120m",
        "taskmanager.memory.jvm-overhead.max": "120m",
        "taskmanager.cpu.cores": "1.0",
    }
    return [word for name, value in parts.items() for word in ("-D", f"{name}={value}")]


def wait_for_slots(rest: Rest, wanted: int, children: list[Child]) -> None:
    """Wait until the JobManager has all slots; SystemExit if a process ends first."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if rest.ask("/overview")["slots-total"] >= wanted:
                return
        except (Unreachable, urllib.error.URLError):
            pass
        if time.monotonic() > end or any(child.exit_code is not None for child in children):
            raise SystemExit(f"the cluster does not start: {[child.last_line for child in children]}")
        time.sleep(0.2)


def start_job_manager(folder: Path, lib: Path) -> Child:
    """Start the JobManager."""
    options = ["-D", "jobmanager.memory.heap.size=448m"]
    return start_java(folder, lib, "jobmanager", JOB_MANAGER, ["-Xmx448m"], options)


def start_task_manager(folder: Path, lib: Path, number: int) -> Child:
    """Start a TaskManager."""
    name, options = f"taskmanager-{number}", make_task_manager_options()
    return start_java(folder, lib, name, TASK_MANAGER, [f"-Xmx{HEAP_MB}m"], options)


def replace_ended(folder: Path, lib: Path, task_managers: list[Child]) -> None:
    """Start each TaskManager again that has ended, as a cluster's supervisor does."""
    for number, child in enumerate(task_managers):
        if child.exit_code is not None:
            print(f"TaskManager {number} ended ({child.last_line}) and is started again", flush=True)
            task_managers[number] = start_task_manager(folder, lib, number)


def parse_arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=HOME, help="for its configuration and logs")
    parser.add_argument("--taskmanagers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2, help="of each TaskManager")
    return parser.parse_args()


def main() -> None:
    """Start the cluster, print how to use it, and keep it until a signal."""
    asked = parse_arguments()
    folder: Path = asked.folder.absolute()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    lib, rest = fetch(HOME), find_free_port()
    write_configuration(folder, (rest, find_free_port()), asked.slots)
    with ExitStack() as stack:
        _, pool = stack.enter_context(serve_pool(Log(folder / "logs" / "workers.log")))
        job_manager = start_job_manager(folder, lib)
        task_managers = [start_task_manager(folder, lib, number) for number in range(asked.taskmanagers)]
        stack.callback(lambda: [child.stop() for child in (*task_managers, job_manager)])
        slots = asked.taskmanagers * asked.slots
        wait_for_slots(Rest(f"http://{LOOPBACK}:{rest}"), slots, [job_manager, *task_managers])
        print(f"--flink-master {LOOPBACK}:{rest} --environment {LOOPBACK}:{pool}", flush=True)
        while not stopped.wait(1.0):
            if job_manager.exit_code is not None:
                raise SystemExit(f"the JobManager ended: {job_manager.last_line}; see {folder / 'logs'}")
            replace_ended(folder, lib, task_managers)


if __name__ == "__main__":
    main()
