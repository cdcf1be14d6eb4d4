"""Every command that uses Redis, as a user who may do exactly what the list of the code allows: nothing is
missing in it."""

import json
import re
from pathlib import Path

import pytest

from tests.integration.archives import Typed
from tests.integration.programs import WHY_NOT
from tests.integration.streaming import KEY, ROOT, Scene, end_runs
from tests.pipelines.relay.layer4 import Layer4, make_report
from tests.servers import RedisServer
from tests.transforms.redis.test_access import acl_words
from transforms.redis.access import LIVE_STREAMS, make_rules


@pytest.fixture
def server(tmp_path: Path):
    with RedisServer(tmp_path, "--unixsocket", str(tmp_path / "redis.sock")) as server:
        yield server


def become(server: RedisServer, monkeypatch: pytest.MonkeyPatch, *uses: str) -> None:
    """The user of the commands typed from now on may do what some uses need."""
    with server.client() as admin:
        admin.execute_command(
            "ACL", "SETUSER", "worker", "reset", "on", ">pw", *acl_words(make_rules(*uses, key=KEY))
        )
    monkeypatch.setenv("KPIFLOW_REDIS_USER", "worker")
    monkeypatch.setenv("KPIFLOW_REDIS_PASSWORD", "pw")


def test_each_command_runs_as_a_user_with_its_own_rights(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    source = ("--redis", server.url, "--stream", KEY)
    become(server, monkeypatch, "generate")
    assert typed("generate", *source, "--reports", 500, "--rate", 0)[0] == 0
    become(server, monkeypatch, "archive")
    assert typed("archive", *source, "--output", tmp_path / "archive")[0] == 0
    assert typed("backfill", "--input", tmp_path / "archive", "--output", tmp_path / "out")[0] == 0
    become(server, monkeypatch, "reconcile")
    assert typed("reconcile", tmp_path / "out", *source)[0] == 0
    become(server, monkeypatch, "status")
    code, _, err = typed("reconcile", tmp_path / "out", *source)
    assert (code, "does not allow a command or key" in err) == (2, True)


def test_a_relay_runs_as_a_user_with_its_own_rights(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    become(server, monkeypatch, "relay")
    words = ("--redis", server.url, "--stream", KEY, "--archive", tmp_path / "relay", "--once")
    with Layer4([make_report(0)]) as layer4:
        assert typed("relay", "--export", layer4.export, *words)[0] == 0
    with server.client() as client:
        assert client.xlen(KEY) == 1


def test_doctor_and_a_start_refuse_a_user_with_too_few_rights(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    become(server, monkeypatch, "reconcile")
    source = ("--redis", server.url, "--stream", KEY, "--output", tmp_path / "out")
    code, out, _ = typed("doctor", *source, "--json")
    (problem,) = [each["problem"] for each in json.loads(out)[server.url] if not each["ok"]]
    assert (code, "does not allow a command or key" in problem) == (1, True)
    code, _, err = typed("stream", *source)
    assert (code, "does not allow a command or key" in err, (tmp_path / "out").exists()) == (2, True, False)
    with monkeypatch.context() as machine:
        machine.setenv("JAVA_HOME", "/nowhere")
        code, _, err = typed("stream", *source)
        assert (code, "JAVA_HOME is /nowhere" in err, (tmp_path / "out").exists()) == (2, True, False)
        code, out, _ = typed("doctor", *source)
        assert (code, "JAVA_HOME is /nowhere" in out) == (1, True)
    become(server, monkeypatch, "stream")
    assert typed("doctor", *source)[0] == 0
    assert typed("doctor", *source, "--live")[0] == 1
    become(server, monkeypatch, "stream", "stream --live")
    assert typed("doctor", *source, "--live")[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_a_stream_runs_as_a_user_with_its_rights_through_a_unix_socket(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisServer, "url", f"unix://{tmp_path}/redis.sock")
    become(server, monkeypatch, "generate")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with end_runs(Scene(server, tmp_path)) as scene:
        scene.add(1000)
        become(server, monkeypatch, "stream", "stream --live")
        scene.finish("--live")
        assert list(temporary.iterdir()) == []
        page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        kept = {path.name + "/" * path.is_dir() for path in (scene.output / "_stream").iterdir()}
        assert kept <= set(re.findall(r"`([\w.]+/?)`", page)) - {"tmp/"}
        scene.ask("doctor", "--redis", server.url, "--stream", KEY, "--live")
        become(server, monkeypatch, "status")
        assert json.loads(scene.ask("status", scene.output, "--json"))["lag"] == 0
        become(server, monkeypatch, "reconcile")
        assert scene.verdict()["problems"] == []
        with server.client() as admin:
            assert admin.xlen(LIVE_STREAMS[0]) > 0
            assert [entry["reason"] for entry in admin.acl_log() if entry["object"] != "client|setinfo"] == []
