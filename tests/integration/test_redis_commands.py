"""The commands at the edges of a stream, with a real Redis: generate into it, archive it, reconcile with
it."""

import json
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis.exceptions import OutOfMemoryError

from pipelines.commands.reconcile import BRING_REST
from pipelines.settings import Settings
from pipelines.verify.reconcile import GO_ON
from schemas.tables import METRICS, QUARANTINED, REPORTS, TRIMMED
from tests.builders import payload, report
from tests.integration.archives import Typed, fates, on_disk, rows
from tests.integration.processes import start_command, wait_until
from tests.patience import PATIENCE
from tests.servers import RedisServer
from transforms.core.record_batches import conform
from transforms.encryption.key_ring import forget_keys
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder

MINUTE = 60_000


pytestmark = pytest.mark.usefixtures("client")  # the server is empty when a test begins


def add(server: RedisServer, *entries: dict[str, Any], key: str = "kpi", first: int = 0) -> list[str]:
    """Add entries a minute apart in the past hour or so; their ids."""
    start = int(time.time() * 1000) - 90 * MINUTE
    ids = [f"{start + (first + number) * MINUTE}-7" for number in range(len(entries))]
    with server.client() as client:
        for entry_id, entry in zip(ids, entries):
            client.xadd(key, entry, id=entry_id)
    return ids


def valid(number: int, minute: int) -> dict[str, Any]:
    """An entry with a report of its minute, as `add` counts minutes."""
    at = datetime.fromtimestamp(int(time.time()) - (90 - minute) * 60 - 1, UTC)
    return {"data": payload(report(number, at))}


def archived(server: RedisServer, folder: Path, *keys: str) -> list[object]:
    return ["archive", "--redis", server.url, "--stream", *(keys or ("kpi",)), "--output", folder]


def test_what_is_generated_arrives_and_becomes_what_the_truth_says(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    truth = tmp_path / "truth.json"
    code, out, _ = typed(
        *(
            "generate",
            "--redis",
            server.url,
            "--stream",
            "kpi",
            "--rate",
            0,
            "--reports",
            3000,
            "--agents",
            7,
        ),
        *("--dirty", 0.1, "--late", 0.05, "--truth", truth),
    )
    said = json.loads(truth.read_text())
    assert (code, said["complete"], said["messages"], "sent 3,000 messages" in out) == (0, True, 3000, True)
    assert typed(*archived(server, tmp_path / "archive"))[0] == 0
    assert typed("backfill", "--input", tmp_path / "archive", "--output", tmp_path / "out")[0] == 0
    found = Counter(fates(tmp_path / "out").values())
    assert (
        found == {"report": said["reports"], "duplicate": said["duplicates"]} | said["quarantined_by_reason"]
    )
    code, out, _ = typed("reconcile", tmp_path / "out", "--redis", server.url, "--stream", "kpi", "--json")
    assert (code, json.loads(out)["received"]) == (0, 3000)


def test_outliers_sent_to_agents_with_history_are_flagged_from_the_first_minute(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    history, archive, truth, agents = (
        tmp_path / "history",
        tmp_path / "archive",
        tmp_path / "truth.json",
        ("--agents", 3),
    )
    began = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert (
        typed("generate", "--output", history, "--reports", 900, "--span", "1h", "--start", began, *agents)[0]
        == 0
    )
    sending = (
        "--redis",
        server.url,
        "--stream",
        "kpi",
        "--rate",
        0,
        "--reports",
        600,
        "--outliers",
        0.05,
        "--truth",
        truth,
    )
    assert typed("generate", *sending, *agents, "--warm")[0] == 0
    assert typed(*archived(server, archive))[0] == 0
    assert typed("backfill", "--input", history, archive, "--output", tmp_path / "out")[0] == 0
    sent = [row for row in rows(tmp_path / "out", REPORTS) if row["source"] == "kpi"]
    flagged = {metric: {row["task_id"] for row in sent if row[f"is_{metric}_outlier"]} for metric in METRICS}
    injected = json.loads(truth.read_text())["outlier_task_ids"]
    assert flagged == {metric: set(tasks) for metric, tasks in injected.items()}
    assert all(injected.values())


def test_a_rate_is_kept_and_reports_are_as_old_as_they_say(server: RedisServer, typed: Typed) -> None:
    words = ("--rate", 12_000, "--reports", 200, "--dirty", 0, "--late", 0, "--duplicates", 0)
    code, _, _ = typed("generate", "--redis", server.url, "--stream", "kpi", *words)
    with server.client() as client:
        entries = [
            (int(entry_id.split(b"-")[0]) / 1000, json.loads(fields[b"data"]))
            for entry_id, fields in client.xrange("kpi")
        ]
    assert (code, len(entries), entries[-1][0] - entries[0][0] > 0.8) == (0, 200, True)
    ages = [sent - datetime.fromisoformat(each["recorded_at"]).timestamp() for sent, each in entries]
    assert 0 < min(ages) < 0.5
    assert max(ages) < 10


def test_ctrl_c_ends_generation_with_an_exact_truth(server: RedisServer, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    process = start_command(
        *(
            "generate",
            "--redis",
            server.url,
            "--stream",
            "kpi",
            "--rate",
            6000,
            "--reports",
            100_000,
            "--truth",
            truth,
        )
    )
    with server.client() as client:
        wait_until(process, lambda: client.xlen("kpi") > 20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        said = json.loads(truth.read_text())
        assert (process.returncode, said["complete"], said["messages"]) == (130, False, client.xlen("kpi"))
    assert f"sent {said['messages']:,} messages" in out


def test_generation_rides_out_a_restart_and_the_truth_stays_exact(tmp_path: Path, typed: Typed) -> None:
    truth = tmp_path / "truth.json"
    with RedisServer(tmp_path, "--appendfsync", "always", appendonly=True) as own:
        timer = threading.Timer(0.7, own.restart)
        timer.start()
        words = ("--rate", 60_000, "--reports", 2000, "--truth", truth)
        assert typed("generate", "--redis", own.url, "--stream", "kpi", *words)[0] == 0
        timer.join()
        with own.client() as client:
            data = [fields[b"data"] for _, fields in client.xrange("kpi")]
    said = json.loads(truth.read_text())
    assert (said["complete"], said["messages"], said["unsure"], len(data)) == (True, 2000, 0, 2000)


def test_a_full_redis_ends_generation_with_what_it_took(tmp_path: Path, typed: Typed) -> None:
    truth = tmp_path / "truth.json"
    with RedisServer(tmp_path, "--maxmemory", "4mb") as own, own.client() as client:
        words = ("--rate", 0, "--reports", 50_000, "--truth", truth)
        code, _, err = typed("generate", "--redis", own.url, "--stream", "kpi", *words)
        assert (code, "does not accept entries" in err, json.loads(truth.read_text())["messages"]) == (
            3,
            True,
            client.xlen("kpi"),
        )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no destination is given"),
        (["--output", "x", "--rate", "1"], "--rate cannot be used with --output"),
        (
            ["--redis", "redis://localhost", "--stream", "s", "--rate", "1", "--bare", "--span", "1h"],
            "--bare and --span cannot be used with --redis",
        ),
        (["--redis", "redis://localhost", "--rate", "1"], "--redis needs --stream and --rate"),
        (
            ["--redis", "redis://localhost", "--stream", "s", "t", "--rate", "1"],
            "one stream is needed, and there are 2",
        ),
        (
            ["--redis", "redis://localhost", "--stream", "s", "--rate", "-1"],
            "--rate -1.0 is not possible",
        ),
        (["--redis", "redis://localhost:1", "--stream", "s", "--rate", "1"], "cannot be reached"),
        (["--redis", "nowhere", "--stream", "s", "--rate", "1"], "is no URL of Redis"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(words: list[str], complaint: str, typed: Typed) -> None:
    code, _, err = typed("generate", *words)
    assert (code, complaint in err) == (2, True)


def test_an_archive_holds_the_stream_and_grows_by_what_is_new(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    ids = add(server, valid(1, 0), {"data": b"\xff broken"}, valid(2, 2))
    code, out, _ = typed(*archived(server, tmp_path / "archive"))
    assert (code, "3 new entries of kpi" in out) == (0, True)
    before = on_disk(tmp_path / "archive")
    assert "0 new entries" in typed(*archived(server, tmp_path / "archive"))[1]
    assert on_disk(tmp_path / "archive") == before
    ids += add(server, valid(3, 80), {"data": "[]"}, first=80)
    assert "2 new entries" in typed(*archived(server, tmp_path / "archive"))[1]
    assert typed("backfill", "--input", tmp_path / "archive", "--output", tmp_path / "out")[0] == 0
    assert fates(tmp_path / "out") == dict(zip(ids, ["report", "utf8", "report", "report", "not_object"]))
    assert {row["source"] for row in rows(tmp_path / "out", REPORTS, ["source"])} == {"kpi"}


def test_an_encrypted_archive_stays_so_and_a_plain_one_stays_plain(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    folder, plain, key = tmp_path / "encrypted", tmp_path / "plain", ("--master-key", tmp_path / "m.key")
    forget_keys()
    assert typed("keys", "new", key[1])[0] == 0
    add(server, *(valid(number, number) for number in range(3)))
    assert typed(*archived(server, folder), "--encrypt")[0] == 2
    assert not folder.exists()
    assert typed(*archived(server, folder), "--encrypt", *key)[0] == 0
    add(server, valid(3, 3), {"other": "x"}, first=3)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, errors = typed(*archived(server, folder))
    assert (code, "is encrypted" in errors, "--master-key" in errors) == (2, True, True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    code, out, _ = typed(*archived(server, folder), *key)
    assert (code, out[:31]) == (0, "2 new entries of kpi, 1 of them")
    assert {path.suffix for path in folder.glob("kpi/*")} - {""} == {".enc"}
    assert json.loads(typed("validate", folder, "--json", *key)[1])["reports"] == 4

    assert typed(*archived(server, plain))[0] == 0
    code, _, errors = typed(*archived(server, plain), "--encrypt", *key)
    assert (code, "name a new archive" in errors) == (2, True)
    forget_keys()


def test_an_entry_without_data_is_archived_and_refused_under_its_own_id(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    ids = add(server, {"a": b"\xff", "b": "2"}, valid(1, 1), {"c": "3"})
    code, out, _ = typed(*archived(server, tmp_path / "archive"))
    assert (code, "3 new entries of kpi, 2 of them without data" in out) == (0, True)
    assert "0 new entries" in typed(*archived(server, tmp_path / "archive"))[1]
    assert typed("backfill", "--input", tmp_path / "archive", "--output", tmp_path / "out")[0] == 0
    refused = {row["message_id"]: row for row in rows(tmp_path / "out", QUARANTINED)}
    assert sorted(refused) == [ids[0], ids[2]]
    assert json.loads(refused[ids[0]]["payload"])["fields"] == {"a": "\udcff", "b": "2"}
    assert {(row["source"], row["reason"], row["message"]) for row in refused.values()} == {
        ("kpi", "envelope", "the entry has no field data")
    }
    assert typed("reconcile", tmp_path / "out", "--redis", server.url, "--stream", "kpi")[0] == 0


def test_several_streams_are_archived_side_by_side(server: RedisServer, tmp_path: Path, typed: Typed) -> None:
    add(server, valid(1, 0), key="a/b")
    add(server, valid(2, 0), valid(3, 1), key="c")
    code, out, _ = typed(*archived(server, tmp_path / "archive", "a/b", "c"))
    assert (code, "1 new entry of a/b" in out, "2 new entries of c" in out) == (0, True, True)
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == ["a%2Fb", "c"]


def test_a_missing_stream_or_another_type_is_wrong_use(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    with server.client() as client:
        client.set("text", "x")
    for command in (archived(server, tmp_path / "a", "gone"), archived(server, tmp_path / "a", "text")):
        code, _, err = typed(*command)
        assert (code, "there is no stream gone" in err or "not a stream" in err) == (2, True)


@pytest.fixture
def output(server: RedisServer, tmp_path: Path, typed: Typed) -> Path:
    """The output of a stream of eight messages, one broken and one without data."""
    add(server, *(valid(number, number) for number in range(6)), {"data": "{"}, {"other": "field"})
    assert typed(*archived(server, tmp_path / "archive"))[0] == 0
    assert typed("backfill", "--input", tmp_path / "archive", "--output", tmp_path / "out")[0] == 0
    return tmp_path / "out"


def reconciled(server: RedisServer, output: Path, typed: Typed) -> tuple[int, dict[str, Any]]:
    code, out, _ = typed("reconcile", output, "--redis", server.url, "--stream", "kpi", "--json")
    return code, {name: value for name, value in json.loads(out).items() if value and name != "kinds"}


WHOLE = {"received": 8, "reports": 6, "quarantined": 2}


def test_an_output_reconciles_with_its_stream(server: RedisServer, output: Path, typed: Typed) -> None:
    assert reconciled(server, output, typed) == (0, WHOLE)


def test_an_output_of_a_stream_and_an_archive_reconciles_with_both(
    server: RedisServer, output: Path, tmp_path: Path, typed: Typed
) -> None:
    history = tmp_path / "history"
    assert typed("generate", "--output", history, "--reports", 50, "--agents", 2)[0] == 0
    assert typed("backfill", "--input", history, "--output", output)[0] == 0
    code, out, _ = typed(
        "reconcile", output, "--redis", server.url, "--stream", "kpi", "--input", history, "--json"
    )
    assert (code, json.loads(out)["received"]) == (0, 8 + 50)
    assert reconciled(server, output, typed)[1]["surplus"] == 50


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_has_expired_is_counted_by_the_payloads_that_the_stream_still_has(
    server: RedisServer, tmp_path: Path, typed: Typed, encrypted: bool
) -> None:
    """Their rows are gone: only the messages themselves say of which day they were."""
    forget_keys()
    output, archive, key = tmp_path / "out", tmp_path / "archive", ["--master-key", tmp_path / "m.key"]
    assert typed("keys", "new", key[1])[0] == 0
    words = ["--encrypt", *key] if encrypted else []
    old = datetime.now(UTC) - timedelta(days=500)
    with server.client() as client:
        for number in range(6):
            at = old + timedelta(minutes=number)
            client.xadd(
                "kpi", {"data": payload(report(number, at))}, id=f"{int(at.timestamp()) * 1000 + 999}-0"
            )
        client.xadd("kpi", {"data": "{"}, id=f"{int(at.timestamp()) * 1000 + 1000}-0")
        client.xadd("kpi", {"other": "field"}, id=f"{int(at.timestamp()) * 1000 + 1001}-0")
    assert typed(*archived(server, archive), *words)[0] == 0
    assert typed("backfill", "--input", archive, "--output", output, *words)[0] == 0
    source = ["--redis", server.url, "--stream", "kpi", "--json", *words[1:]]
    assert typed("maintain", output, "--expire", "--grace-seconds", 0, *words[1:])[0] == 0
    assert typed("maintain", output, "--expire", "--grace-seconds", 0, *words[1:])[0] == 0
    code, out, errors = typed("reconcile", output, *source)
    verdict = json.loads(out)
    assert (code, verdict["received"], verdict["expired"], verdict["missing"]) == (0, 8, 8, 0), out + errors
    forget_keys()


def test_an_entry_without_a_fate_is_missing(server: RedisServer, output: Path, typed: Typed) -> None:
    (new,) = add(server, valid(9, 20), first=20)
    code, verdict = reconciled(server, output, typed)
    problem = f"1 message of the source without a fate (e.g. kpi {new}); {GO_ON}; {BRING_REST}"
    assert (code, verdict) == (1, WHOLE | {"received": 9, "missing": 1, "problems": [problem]})
    again = output.parent / "again"
    assert typed(*archived(server, again))[0] == 0
    assert typed("backfill", "--input", again, "--output", output)[0] == 0
    assert reconciled(server, output, typed) == (0, WHOLE | {"received": 9, "reports": 7})


def test_what_the_job_has_not_committed_is_no_loss(server: RedisServer, output: Path, typed: Typed) -> None:
    first, second = add(server, valid(9, 20), valid(10, 21), first=20)
    with server.client() as client:
        client.xgroup_create("kpi", "kpiflow", first)
    code, verdict = reconciled(server, output, typed)
    assert (code, verdict["missing"], verdict["uncommitted"]) == (1, 1, 1)
    assert first in verdict["problems"][0]
    assert second not in verdict["problems"][0]
    with server.client() as client:
        client.xgroup_setid("kpi", "kpiflow", "0")
    assert reconciled(server, output, typed) == (0, WHOLE | {"received": 10, "uncommitted": 2})
    _, out, _ = typed("reconcile", output, "--redis", server.url, "--stream", "kpi")
    assert "not in a table yet: 2 messages after the offset that the job has committed" in out


@pytest.mark.parametrize("left", [5, 1, 0])
def test_a_stream_that_was_trimmed_after_it_was_read_reconciles(
    server: RedisServer, output: Path, typed: Typed, left: int
) -> None:
    with server.client() as client:
        client.xtrim("kpi", maxlen=left, approximate=False)
    assert reconciled(server, output, typed) == (0, WHOLE)


def test_an_entry_that_was_deleted_after_it_was_read_is_no_surplus(
    server: RedisServer, output: Path, typed: Typed
) -> None:
    with server.client() as client:
        client.xdel("kpi", client.xrange("kpi")[3][0])
    assert reconciled(server, output, typed) == (0, WHOLE)


def test_a_fate_that_no_entry_ever_had_is_surplus(server: RedisServer, output: Path, typed: Typed) -> None:
    foreign = {
        "source": "kpi",
        "message_id": f"{int(time.time() * 1000) - 85 * MINUTE}-1",
        "received_at": datetime.now(UTC),
    }
    row = pa.RecordBatch.from_pylist([foreign | {"payload": b"x", "reason": "json", "revision": 1}])
    minutes = Settings.model_construct().file_minutes
    ParquetStore(LocalFolder(output), minutes).write(QUARANTINED, [conform(row, QUARANTINED.schema)])
    code, verdict = reconciled(server, output, typed)
    assert (code, verdict["surplus"]) == (1, 1)
    assert (
        f"1 message with a fate but not in the source (e.g. kpi {foreign['message_id']})"
        in verdict["problems"][0]
    )


def test_what_was_read_of_a_stream_before_it_went_back_is_no_surplus(
    server: RedisServer, output: Path, typed: Typed
) -> None:
    with server.client() as client:
        held = [entry_id.decode() for entry_id, _ in client.xrange("kpi")]
        lost = f"{int(held[-1].split('-')[0]) + 1}-0"
    row = {
        "source": "kpi",
        "message_id": lost,
        "received_at": datetime.now(UTC),
        "payload": b"x",
        "reason": "json",
        "revision": 1,
    }
    reset = {
        "source": "kpi",
        "message_id": lost,
        "received_at": None,
        "after": held[-2],
        "reason": "reset",
        "revision": 1,
    }
    store = ParquetStore(LocalFolder(output), Settings.model_construct().file_minutes)
    store.write(QUARANTINED, [conform(pa.RecordBatch.from_pylist([row]), QUARANTINED.schema)])
    code, verdict = reconciled(server, output, typed)
    assert (code, verdict["surplus"]) == (1, 1)
    store.write(TRIMMED, [pa.RecordBatch.from_pylist([reset], TRIMMED.schema)])
    assert reconciled(server, output, typed) == (0, WHOLE | {"received": 9, "quarantined": 3})


def test_a_stream_that_went_back_is_archived_from_its_beginning(
    server: RedisServer, tmp_path: Path, typed: Typed
) -> None:
    first = add(server, *(valid(number, number) for number in range(3)))
    assert typed(*archived(server, tmp_path / "archive"))[0] == 0
    with server.client() as client:
        client.delete("kpi")
    older = add(server, valid(7, 1), valid(8, 5))
    _, out, _ = typed(*archived(server, tmp_path / "archive"))
    assert "new entries of kpi" in out
    lines = [
        json.loads(line)
        for path in (tmp_path / "archive").rglob("*.ndjson")
        for line in path.read_text().splitlines()
    ]
    assert sorted(line["message_id"] for line in lines) == sorted({*first, *older})


def test_what_the_stream_lost_is_named(server: RedisServer, output: Path, typed: Typed) -> None:
    gap = {
        "source": "kpi",
        "message_id": "9-0",
        "received_at": datetime.now(UTC),
        "reason": "trimmed",
        "revision": 1,
    }
    gaps = pa.RecordBatch.from_pylist(
        [gap | {"after": "1-0", "entries": 5}, gap | {"after": "2-0", "entries": None}]
    )
    minutes = Settings.model_construct().file_minutes
    ParquetStore(LocalFolder(output), minutes).write(TRIMMED, [conform(gaps, TRIMMED.schema)])
    assert reconciled(server, output, typed) == (0, WHOLE | {"trimmed": 5})
    code, out, _ = typed("reconcile", output, "--redis", server.url, "--stream", "kpi")
    assert (
        code,
        "5 entries, and 1 time an unknown number left their stream before they were read" in out,
    ) == (0, True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--redis", "redis://localhost"], "go together"),
        (["--stream", "kpi"], "go together"),
        (["--redis", "redis://localhost:1", "--stream", "kpi"], "cannot be reached"),
    ],
)
def test_a_source_that_is_not_one_is_wrong_use(
    words: list[str], complaint: str, tmp_path: Path, typed: Typed
) -> None:
    code, _, err = typed("reconcile", tmp_path, *words)
    assert (code, complaint in err) == (2, True)


def test_a_stream_that_was_deleted_is_named(server: RedisServer, output: Path, typed: Typed) -> None:
    code, _, err = typed("reconcile", output, "--redis", server.url, "--stream", "kpi", "gone")
    assert (code, "there is no stream gone" in err) == (2, True)


def fill(client: Any) -> None:
    """Write until Redis refuses."""
    for number in count():
        client.set(f"filler {number}", b"x" * 10_000)


def test_status_names_what_is_wrong_with_a_stream_and_with_redis(tmp_path: Path, typed: Typed) -> None:
    folder = tmp_path / "out" / "_stream"
    (folder / "readers").mkdir(parents=True)
    with RedisServer(tmp_path, "--maxmemory", "5mb") as own, own.client() as client:
        client.xadd("kpi", {"data": "x"}, id=f"{int(time.time() * 1000) + 7_200_000}-0")
        with pytest.raises(OutOfMemoryError):
            fill(client)
        depends = {"group": "kpiflow", "outputs": [], "streams": ["kpi"]}
        (folder / "job.json").write_text(json.dumps({"redis": own.url, "depends": depends}))
        place = {"position": "1-0", "index": 1, "added": 1, "lost": 2, "went_back": 1, "moved": 3, "ahead": 4}
        said = {"streams": {"kpi": place}, "read": 1, "watermark": None, "time": 0}
        (folder / "readers" / "reader-0.json").write_text(json.dumps(said))
        code, out, _ = typed("status", tmp_path / "out")
        _, as_json, _ = typed("status", tmp_path / "out", "--json")
    words = " ".join(out.split())
    assert code == 0
    for notice in (
        "2 lost before they were read",
        "went back to an older state 1 time",
        "another client moved the group 3 times",
        "ahead of the clock of the source (4 entries so far)",
        "full, producers are refused",
        "XTRIM KEY MINID",
    ):
        assert notice in words
    found = json.loads(as_json)
    assert (found["memory"]["full"], 7100 < found["streams"][0]["ahead_seconds"] <= 7200) == (True, True)
