"""What the Flink engine decides, asks and makes of answers; `tests/integration/test_flink.py` runs it."""

import os
import signal
import tempfile
from pathlib import Path

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from runners.direct import TakenOptionError
from runners.flink import jars
from runners.flink.checkpoints import find_newest_checkpoint, remove_other_jobs
from runners.flink.engine import StreamEngine, make_folders, make_java_arguments, write_stream_configuration
from runners.flink.jars import FlinkMissing
from runners.flink.job_server import FlinkFailed
from runners.flink.launch import run
from runners.flink.rest import find_root_cause
from runners.pipeline import make_pipeline
from tests.integration.streaming import children

PYTHON_ERROR = """org.apache.flink.runtime.JobException: Recovery is suppressed
Caused by: java.util.concurrent.ExecutionException: java.lang.RuntimeException: \
Error received from SDK harness for 7: Traceback (most recent call last):
  File "worker.py", line 1, in run
    self.go()

  File "steps.py", line 2, in go
    raise KeyError(7)
KeyError: 7 [while running 'Write']

\tat java.base/java.util.concurrent.CompletableFuture.get(CompletableFuture.java:2073)
Caused by: java.lang.RuntimeException: \
Error received from SDK harness for 7: Traceback (most recent call last):
  File "steps.py", line 2, in go
    raise KeyError(7)
KeyError: 7 [while running 'Write']
\tat org.apache.beam.X.y(X.java:1)
"""


def make_checkpoint(folder: Path, name: str, at: int, complete: bool = True) -> Path:
    path = folder / "checkpoints" / name
    path.mkdir(parents=True)
    if complete:
        (path / "_metadata").write_bytes(b"x")
        os.utime(path / "_metadata", (at, at))
    return path


def read_configuration(folder: Path) -> dict[str, str]:
    lines = (folder / "conf" / "flink-conf.yaml").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        (PYTHON_ERROR, "KeyError: 7 [while running 'Write']"),
        (
            "a.B: c\n\tat x\nCaused by: java.io.IOException: No space left\n\tat y",
            "java.io.IOException: No space left",
        ),
        ("java.lang.IllegalStateException: lost\n\tat z", "java.lang.IllegalStateException: lost"),
        ("it is gone\nfor good", "it is gone"),
        ("", "no reason given"),
    ],
)
def test_the_cause_is_the_python_error_else_the_innermost_of_java(trace: str, cause: str) -> None:
    assert find_root_cause(trace) == cause


def test_the_newest_checkpoint_is_the_last_complete_one_of_any_job(tmp_path: Path) -> None:
    assert find_newest_checkpoint(tmp_path) is None
    make_checkpoint(tmp_path, "old/chk-900", at=1000)
    newest = make_checkpoint(tmp_path, "new/chk-10", at=2000)
    make_checkpoint(tmp_path, "new/chk-9", at=2000)
    make_checkpoint(tmp_path, "new/chk-11", at=3000, complete=False)
    assert find_newest_checkpoint(tmp_path) == newest


def test_other_jobs_are_removed_with_all_their_checkpoints(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "old/chk-1", at=3000)
    kept = make_checkpoint(tmp_path, "new/chk-1", at=1000)
    remove_other_jobs(tmp_path, "new")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["new"]
    assert find_newest_checkpoint(tmp_path) == kept


@pytest.mark.parametrize(
    "option", ["--runner=FlinkRunner", "--parallelism=4", "--flink_conf_dir=x", "--streaming"]
)
def test_an_option_that_the_engine_decides_is_refused_before_anything_is_made(
    tmp_path: Path, option: str
) -> None:
    engine = StreamEngine(tmp_path / "run", beam_options=(option, "--max_bundle_size=10"))
    with pytest.raises(TakenOptionError, match=f"decides {option.partition('=')[0]} itself"):
        run(lambda root: pytest.fail("was built"), engine, lambda progress: pytest.fail("was reported"))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_a_checkpoint_by_flinks_configuration_and_a_fresh_one_does_not(
    tmp_path: Path,
) -> None:
    path = make_checkpoint(tmp_path, "job/chk-1", at=1000)
    with make_folders(tmp_path):
        write_stream_configuration(StreamEngine(tmp_path), path)
        assert read_configuration(tmp_path)["execution.savepoint.path"] == path.as_uri()
        assert read_configuration(tmp_path)["state.checkpoints.dir"] == (tmp_path / "checkpoints").as_uri()
        write_stream_configuration(StreamEngine(tmp_path), None)
        assert "execution.savepoint.path" not in read_configuration(tmp_path)


def test_the_job_server_gets_a_folder_whose_name_has_a_blank_as_an_argument_of_its_own(
    tmp_path: Path,
) -> None:
    arguments = make_java_arguments(StreamEngine(tmp_path / "an output"), tmp_path)
    place = arguments.index("--artifacts-dir") + 1  # it takes a value after = only if that has no blank
    assert arguments[place] == str(tmp_path / "an output" / "tmp" / "artifacts")


def test_temporary_files_of_a_run_are_below_it_and_end_with_it_however_it_ends(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "of a run that was killed").touch()
    before = tempfile.gettempdir()

    def fail() -> None:
        with make_folders(tmp_path):
            assert Path(tempfile.mkdtemp()).parent == tmp_path / "tmp"
            assert [path.is_dir() for path in (tmp_path / "tmp").iterdir()] == [True]
            raise FlinkFailed

    with pytest.raises(FlinkFailed):
        fail()
    assert tempfile.gettempdir() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "logs"]


def test_a_graph_that_cannot_be_wired_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_pipeline(FnApiRunner(), PipelineOptions([]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("home", "cause"), [("/nowhere", "JAVA_HOME is /nowhere"), (None, "no java on PATH")]
)
def test_where_java_is_missing_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None, cause: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home:
        monkeypatch.setenv("JAVA_HOME", home)
    with pytest.raises(FlinkMissing, match=f"{cause}.*apt-get install openjdk-17-jre-headless"):
        jars.find_java()


def test_a_java_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(FlinkMissing, match=r'version "1.8.0_392": a stream needs Java 17'):
        jars.find_java()


def test_missing_jars_without_maven_name_both_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlinkMissing, match=r"apt-get install maven.*make flink"):
        jars.ensure_jars(tmp_path / "lib")


@pytest.mark.parametrize("works", [True, False])
def test_jars_are_fetched_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    maven = tmp_path / "mvn"
    made = "touch $d/a.jar" + (
        " $d/beam-runners-flink-1.19-2.62.0.jar" if works else "; echo '[ERROR] no network'; exit 1"
    )
    maven.write_text(
        "#!/bin/sh\nfor w; do case $w in -DoutputDirectory=*) d=${w#*=};; esac; done\n"
        f"mkdir -p $d\n{made}\n"
    )
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    said: list[str] = []
    if works:
        assert jars.ensure_jars(tmp_path / "lib", said.append) == tmp_path / "lib"
        assert len(list((tmp_path / "lib").iterdir())) == 2
        jars.ensure_jars(tmp_path / "lib", said.append)
    else:
        with pytest.raises(FlinkMissing, match="no network"):
            jars.ensure_jars(tmp_path / "lib", said.append)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mvn"]
    assert len(said) == 1


def test_what_the_build_raises_is_raised_before_flink_is_asked(tmp_path: Path) -> None:
    def build(root: beam.Pipeline) -> None:
        raise ZeroDivisionError("no graph")

    try:
        jars.find_java(), jars.ensure_jars()
    except FlinkMissing as missing:
        pytest.skip(str(missing))
    with pytest.raises(ZeroDivisionError, match="no graph"):
        run(build, StreamEngine(tmp_path, heap_mb=256), lambda progress: None)


def test_a_java_that_dies_while_it_is_given_the_job_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: object) -> None:
        (server,) = [pid for pid, line in children(os.getpid()).items() if str(tmp_path) in line]
        os.kill(server, signal.SIGKILL)
        raise grpc.RpcError

    try:
        jars.find_java(), jars.ensure_jars()
    except FlinkMissing as missing:
        pytest.skip(str(missing))
    monkeypatch.setattr("runners.flink.job_server.submit", submit)
    with pytest.raises(FlinkFailed, match="Java process was killed by signal 9"):
        run(lambda root: None, StreamEngine(tmp_path, heap_mb=256), lambda progress: None)


def test_flink_that_is_missing_and_cannot_be_fetched_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "find_java", lambda: "java")
    jars.check_installed()
    monkeypatch.setattr(jars, "_IN_PROJECT", tmp_path)
    monkeypatch.setattr(jars, "_IN_HOME", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlinkMissing, match="apt-get install maven"):
        jars.check_installed()
