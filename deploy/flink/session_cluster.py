"""A Flink cluster on this machine without Docker: JobManager, TaskManagers and Python workers, until Ctrl-C.

    .venv/bin/python deploy/flink/session_cluster.py

It prints the options that a stream needs to use it. Flink comes from PyPI (apache-flink-libraries, 230 MB,
fetched once); its version must match the job server's jars.
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
from runners.flink.processes import Child, Log, find_free_port, start  # noqa: E402
from runners.flink.rest import Rest, Unreachable  # noqa: E402
from runners.flink.workers import serve_pool  # noqa: E402

HOME = ROOT / ".flink" / "session"
PACKAGE = "apache-flink-libraries==1.19.*"
START_SECONDS = 120.0
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
    """Write the cluster's configuration: little memory, on localhost only."""
    rest, rpc = ports
    own = {
        "rest.address": "localhost",
        "rest.bind-address": "localhost",
        "rest.port": rest,
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "localhost",
        "jobmanager.memory.process.size": "1000m",
        "taskmanager.host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.memory.process.size": "1000m",
        "taskmanager.memory.managed.size": "16m",
        "taskmanager.numberOfTaskSlots": slots,
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
        "taskmanager.memory.task.heap.size": "384m",
        "taskmanager.memory.task.off-heap.size": "0b",
        "taskmanager.memory.managed.size": "16m",
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


def start_all(folder: Path, lib: Path, task_managers: int) -> list[Child]:
    """Start the JobManager and the TaskManagers."""
    options = ["-D", "jobmanager.memory.heap.size=448m"]
    children = [start_java(folder, lib, "jobmanager", JOB_MANAGER, ["-Xmx448m"], options)]
    for number in range(task_managers):
        name, options = f"taskmanager-{number}", make_task_manager_options()
        children.append(start_java(folder, lib, name, TASK_MANAGER, ["-Xmx512m"], options))
    return children


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
        children = start_all(folder, lib, asked.taskmanagers)
        stack.callback(lambda: [child.stop() for child in children])
        wait_for_slots(Rest(f"http://localhost:{rest}"), asked.taskmanagers * asked.slots, children)
        print(f"--flink-master localhost:{rest} --environment localhost:{pool}", flush=True)
        while not stopped.wait(1.0):
            if ended := [child.last_line for child in children if child.exit_code is not None]:
                logs = folder / "logs"
                raise SystemExit(f"a process of the cluster ended: {ended[0]}; its log is in {logs}")


if __name__ == "__main__":
    main()
