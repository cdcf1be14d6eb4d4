"""A source that is in no list but the test's goes through every command: none of them knows a kind of
source."""

import json
import math
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.direct import clock
from apache_beam.transforms import trigger
from apache_beam.utils.timestamp import MAX_TIMESTAMP

from pipelines import cli, sources
from pipelines.commands import doctor
from pipelines.failures import WrongUse
from pipelines.jobs import stream
from pipelines.settings import Settings
from pipelines.sources import SourceRequest, parse_encodings, parse_live_source, parse_source, parse_streams
from runners import direct
from runners.progress import Progress
from tests.builders import report
from tests.pipelines import memory_source
from tests.pipelines.memory_source import SERVERS, Server
from transforms.sources.source import LiveSource

URL, KEY = "memory://here", "kpi"
Ask = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose kind is in the list, with three reports, one of them twice, and a message that is
    none."""
    monkeypatch.setitem(sources.SCHEMES, "memory", sources.SourceScheme("memory://NAME", memory_source.make))
    SERVERS["here"] = server = Server()
    now = datetime.now(UTC).replace(microsecond=0)
    documents = [*(report(number, now - timedelta(seconds=30)) for number in (1, 2, 3, 1)), "{"]
    for document in documents:
        server.add(KEY, document, now)
    yield server
    del SERVERS["here"]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command in this process, a stream without Flink: its exit code, its JSON (or stdout), its
    stderr."""

    def run_here(build: Callable[[beam.Pipeline], None], engine: object, follow: Callable[..., None]) -> None:
        direct.run(build)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # the engine handles it too
        try:
            for checkpoints in count():  # until the job itself interrupts
                follow(Progress("running", checkpoints=checkpoints))
        finally:
            signal.signal(signal.SIGINT, handler)

    create_driver, state = trigger.create_trigger_driver, trigger.InMemoryUnmergedState

    def drive(windowing: object, is_batch: bool = False, **options: object) -> trigger.TriggerDriver:
        return create_driver(windowing, is_batch, clock=clock.TestClock(), **options)

    def take_timers(self: Any, watermark: object = MAX_TIMESTAMP) -> object:
        return self.get_timers(clear=True, watermark=watermark, processing_time=math.inf)[0]

    # FnApiRunner has no clock, which the triggers of a stream ask for: here all its time passes at the end.
    monkeypatch.setattr(trigger, "create_trigger_driver", drive)
    monkeypatch.setattr(state, "get_and_clear_timers", take_timers)
    monkeypatch.setattr(stream, "run", run_here)
    monkeypatch.setattr(stream, "compute_settle_seconds", lambda *_: 0)
    for module in (stream, doctor):
        monkeypatch.setattr(module, "check_readiness", lambda settings: "Java is installed")

    def ask_(*words: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in words else out, err

    return ask_


def read_all(ask: Ask, output: Path) -> None:
    """The stream, until it is idle."""
    code, out, err = ask("stream", "--source", URL, "--stream", KEY, "--output", output, "--until-idle")
    assert (code, str(output) in out) == (0, True), err


def reconcile(ask: Ask, output: Path) -> tuple[int, dict[str, Any]]:
    code, verdict, _ = ask("reconcile", output, "--source", URL, "--stream", KEY, "--json")
    return code, {name: value for name, value in verdict.items() if value and name != "kinds"}


def test_doctor_asks_the_source_itself(server: Server, ask: Ask) -> None:
    words = ("doctor", "--source", URL, "--stream", KEY, "--json")
    code, found, _ = ask(*words)
    assert (code, found[URL][-1]) == (0, {"checked": "it answers", "ok": True, "problem": None, "fix": None})
    server.is_down = True
    code, found, _ = ask(*words)
    assert (code, found[URL][-1]["problem"], found[URL][-1]["fix"]) == (1, f"{URL} is down", "start it")


def test_a_stream_of_any_source_fills_the_tables_and_is_reconciled(
    server: Server, ask: Ask, tmp_path: Path
) -> None:
    read_all(ask, tmp_path)
    assert server.owner is None
    whole = {"received": 5, "reports": 3, "duplicates": 1, "quarantined": 1}
    assert reconcile(ask, tmp_path) == (0, whole)
    del server.streams[KEY][:2]  # trimmed after they were read
    assert reconcile(ask, tmp_path) == (0, whole)
    server.add(KEY, report(9), datetime.now(UTC))
    assert reconcile(ask, tmp_path) == (0, whole | {"received": 6, "uncommitted": 1})
    server.committed[KEY] = 6
    code, verdict = reconcile(ask, tmp_path)
    assert (code, verdict["missing"]) == (1, 1)


def test_status_tells_the_lag_and_that_the_source_is_unavailable(
    server: Server, ask: Ask, tmp_path: Path
) -> None:
    read_all(ask, tmp_path)
    code, found, _ = ask("status", tmp_path, "--json")
    assert (code, found["lag"], found["read"], found["streams"][0]["position"]) == (0, 0, 5, "5")
    server.add(KEY, report(9), datetime.now(UTC))
    assert ask("status", tmp_path, "--json")[1]["lag"] == 1
    server.is_down = True
    code, found, _ = ask("status", tmp_path, "--json")
    assert (code, found["lag"], found["unreachable"]) == (0, 0, f"{URL} is down; start it")


def test_a_group_of_another_job_is_wrong_use(server: Server, ask: Ask, tmp_path: Path) -> None:
    server.owner = "another"
    code, _, err = ask("stream", "--source", URL, "--stream", KEY, "--output", tmp_path, "--until-idle")
    assert (code, "is read by another" in err) == (2, True)


def test_a_source_that_no_kind_is_for_is_wrong_use_with_the_forms_there_are() -> None:
    with pytest.raises(WrongUse, match="no source is called kafka://") as raised:
        parse_source(SourceRequest(("kafka://host",)), Settings())
    assert "redis://HOST:PORT/DB" in raised.value.fix
    for url in ("nowhere", "file:///archive"):
        with pytest.raises(WrongUse):
            parse_live_source(url, [KEY], "g", Settings())


def test_archives_and_redis_streams_are_kinds_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text("")
    assert not isinstance(parse_source(SourceRequest((str(tmp_path),)), Settings()), LiveSource)
    for url in ("redis://h", "rediss://h", "unix:///h"):
        assert parse_live_source(url, [KEY, KEY], "g", Settings()).streams == (KEY,)


def test_a_stream_can_be_given_with_the_kind_of_its_messages() -> None:
    assert parse_streams(["a", "b=task", "a", "c=d=agent"]) == (
        ("a", "b", "c=d"),
        {"b": "task", "c=d": "agent"},
    )
    with pytest.raises(WrongUse, match="no kind of message is called tasks") as raised:
        parse_streams(["a=tasks"])
    assert "kpi_report, task, execution_result, agent, system_health" in str(raised.value.fix)
    with pytest.raises(WrongUse, match="a is given as task and as agent"):
        parse_streams(["a=task", "a=agent"])


def test_a_stream_can_be_given_with_the_encoding_of_its_messages() -> None:
    assert parse_encodings(["a=protobuf", "c=d=json"], ("a", "b", "c=d")) == {"a": "protobuf", "c=d": "json"}
    for text, problem in (
        ("a", "names no encoding"),
        ("a=avro", "no encoding"),
        ("x=json", "none of the streams"),
    ):
        with pytest.raises(WrongUse, match=problem):
            parse_encodings([text], ("a", "b"))
    with pytest.raises(WrongUse, match="a is given as json and as protobuf"):
        parse_encodings(["a=json", "a=protobuf"], ("a",))
