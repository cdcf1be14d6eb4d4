"""Find Java and Flink's jars. As a program (`python -m runners.flink.jars`) it fetches the jars."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
DEPLOY = ROOT / "deploy" / "flink"
_POM = DEPLOY / "pom.xml"
_IN_PROJECT, _IN_HOME = ROOT / ".flink" / "lib", Path("~/.cache/kpiflow/flink").expanduser()
_JOB_SERVER = "beam-runners-flink-*.jar"
_OLDEST_JAVA = 11


class FlinkMissing(RuntimeError):  # noqa: N818 (a state of the machine)
    """Java, Maven or Flink's jars are missing; the message says what installs them."""


def find_java() -> str:
    """The path of Java: that of JAVA_HOME, else the one on PATH.

    Raises:
        FlinkMissing: there is none, or it is older than 11.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None or not Path(found).is_file():
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no java on PATH"
        raise FlinkMissing(f"{where}: a stream needs Java 17; apt-get install openjdk-17-jre-headless")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        what = said.splitlines()[0] if said else "no Java"
        fix = "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
        raise FlinkMissing(f"{found} is {what}: a stream needs Java 17; {fix}")
    return found


def ensure_jars(folder: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """The folder of Flink's jars, which are fetched if they are missing.

    Args:
        folder: where they are; by default `.flink/lib` beside the sources, or ~/.cache/kpiflow/flink.
        say: gets a line when they are being fetched.

    Raises:
        FlinkMissing: they are missing and cannot be fetched.
    """
    if (found := _find_folder(folder)) is not None:
        return found
    target = _choose_target(folder)
    maven = _find_maven(target)
    say(f"fetching Flink into {target} (150 MB, once) ...")
    _fetch(maven, _POM, target)
    return target


def check_installed() -> str:
    """Check that a stream can start here; nothing is fetched. Returns what was found, as text.

    Raises:
        FlinkMissing: there is no Java, or Flink's jars are missing and cannot be fetched.
    """
    find_java()
    if _find_folder() is not None:
        return "Java and Flink are installed"
    _find_maven(_choose_target())
    return "Java is installed, and the job will fetch Flink (150 MB) when it starts"


def _find_folder(folder: Path | None = None) -> Path | None:
    """The folder that has Flink's jars; None if none has."""
    candidates = [folder] if folder else [_IN_PROJECT, _IN_HOME]
    return next((each for each in candidates if any(each.glob(_JOB_SERVER))), None)


def _choose_target(folder: Path | None = None) -> Path:
    return folder or (_IN_PROJECT if DEPLOY.is_dir() else _IN_HOME)


def _find_maven(target: Path) -> str:
    maven = shutil.which("mvn")
    if maven is None or not _POM.is_file():
        fix = "`apt-get install maven`, then `make flink` in kpiflow's sources fetches it"
        raise FlinkMissing(f"Flink is not in {target}: {fix}")
    return maven


def _fetch(maven: str, pom: Path, target: Path) -> None:
    """Let Maven copy the jars beside the target, and move them there when they are complete."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    command = [
        maven,
        "-q",
        "-B",
        "-f",
        str(pom),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={partial}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not any(partial.glob(_JOB_SERVER)):
            errors = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            why = errors[0] if errors else done.stdout.strip()
            fix = "check the network and ~/.m2/settings.xml, then run `make flink`"
            raise FlinkMissing(f"Maven cannot fetch Flink: {why}; {fix}")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    try:
        print(f"Flink is in {ensure_jars()}")
    except FlinkMissing as error:
        sys.exit(str(error))
