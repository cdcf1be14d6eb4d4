"""Refused messages that are corrected and replayed become reports, once, whatever happens in between."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.cli import run
from pipelines.jobs import replay as replay_module
from schemas.tables import QUARANTINED, REPORTS
from tests.builders import NOON, line_id, report
from tests.integration.archives import Typed, envelope, fates, on_disk, rows, stream, write
from transforms import enrich

GOOD = stream(120, seed=31)
BROKEN = {
    "text": json.dumps(report(9001, accuracy=0.71))[:-1],
    "range": report(9002, accuracy=7.2),
    "octets": b'{"latency_ms": "\xff"}',
    "hopeless": "{",
}

WRONG = b'{"message_id": 1, "received_at": 2, "data": {}}'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, and the output of its backfill: BROKEN, some of GOOD and a bad envelope are refused."""
    folder = tmp_path_factory.mktemp("replay")
    broken = [envelope(document, name) for name, document in BROKEN.items()]
    write(folder / "a.ndjson", [*GOOD, *broken, WRONG])
    assert run(["backfill", "--input", str(folder / "a.ndjson"), "--output", str(folder / "out")]) == 0
    assert set(BROKEN) <= {row["message_id"] for row in rows(folder / "out", QUARANTINED)}
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy of that output, beside its archive."""
    return shutil.copytree(made, tmp_path / "copy") / "out"


@pytest.fixture
def corrected(output: Path, typed: Typed) -> Path:
    """What `quarantine show --export` writes, three messages of it corrected."""
    exported = output.with_name("corrected.ndjson")
    assert typed("quarantine", "show", output, "--export", exported)[0] == 0
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    data = {
        "text": report(9001, accuracy=0.71),
        "range": report(9002, accuracy=0.72),
        "octets": json.dumps(report(9003)),
    }
    write(
        exported,
        [json.dumps(line | {"data": data.get(line["message_id"], line["data"])}).encode() for line in lines],
    )
    return exported


def reconciled(output: Path, typed: Typed) -> dict[str, int]:
    """The counts of an output that reconciles with its archive."""
    code, out, _ = typed("reconcile", output, "--input", output.with_name("a.ndjson"), "--json")
    assert code == 0, out
    return json.loads(out)


def test_mended_messages_become_reports_and_the_others_stay_as_they_were(
    output: Path, corrected: Path, typed: Typed
) -> None:
    before, refused = reconciled(output, typed), {row["message_id"]: row for row in rows(output, QUARANTINED)}
    code, out, err = typed("quarantine", "replay", output, "--input", corrected)
    assert (code, "3 replayed" in out) == (0, True)
    assert err.startswith("still rejected: 3 schema accuracy maximum, such as test/")
    after = reconciled(output, typed)
    assert (after["reports"], after["quarantined"]) == (before["reports"] + 3, before["quarantined"] - 3)
    assert {name: fates(output)[name] for name in BROKEN} == dict.fromkeys(BROKEN, "report") | {
        "hopeless": "json"
    }
    for row in rows(output, QUARANTINED):
        closed = row["message_id"] in ("text", "range", "octets")
        changed = {"resolution": "replayed", "revision": 2} if closed else {}
        assert row == refused[row["message_id"]] | changed


def test_a_replayed_message_keeps_the_time_at_which_it_was_received(
    output: Path, corrected: Path, typed: Typed
) -> None:
    received = {row["message_id"]: row["received_at"] for row in rows(output, QUARANTINED)}
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    found = {
        row["message_id"]: row["received_at"] for row in rows(output, REPORTS, ["message_id", "received_at"])
    }
    for name in ("text", "range", "octets"):
        assert found[name] == received[name]


def test_replay_gives_what_a_backfill_of_the_mended_archive_gives(
    output: Path, corrected: Path, tmp_path: Path, typed: Typed
) -> None:
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    better = {json.loads(line)["message_id"]: line for line in corrected.read_bytes().splitlines()}
    lines = [better.get(json.loads(line)["message_id"], line) for line in GOOD]
    write(tmp_path / "b.ndjson", [*lines, *(better[name] for name in BROKEN)])
    assert typed("backfill", "--input", tmp_path / "b.ndjson", "--output", tmp_path / "other")[0] == 0
    code, _, err = typed("parity", output, tmp_path / "other", "--identity")
    assert (code, "do not hold the same rows: quarantine" in err) == (1, True)


def test_a_second_replay_changes_nothing_and_says_so(output: Path, corrected: Path, typed: Typed) -> None:
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    before = on_disk(output)
    code, out, err = typed("quarantine", "replay", output, "--input", corrected)
    assert (code, "0 replayed" in out, "not open in quarantine: test/text" in err) == (1, True, True)
    assert on_disk(output) == before
    assert typed("quarantine", "replay", output)[0] == 0
    assert on_disk(output) == before


def test_a_backfill_after_a_replay_opens_nothing_again(output: Path, corrected: Path, typed: Typed) -> None:
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    before = on_disk(output)
    assert typed("backfill", "--input", output.with_name("a.ndjson"), "--output", output)[0] == 0
    assert on_disk(output) == before


def test_a_replay_that_dies_before_it_closes_its_rows_is_completed_by_another(
    output: Path, corrected: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.jobs.replay.close_rows", die)
        assert typed("quarantine", "replay", output, "--input", corrected)[0] == 3
    half = reconciled(output, typed)
    code, out, _ = typed("quarantine", "replay", output, "--input", corrected)
    assert (code, "3 replayed" in out) == (0, True)
    assert reconciled(output, typed) == half
    named = {json.loads(line)["message_id"] for line in GOOD} | set(BROKEN)
    assert fates(output).keys() == named | {line_id(len(GOOD) + 5, WRONG)}


def test_messages_mended_into_a_report_that_is_there_are_duplicates(
    output: Path, corrected: Path, typed: Typed
) -> None:
    lines = [json.loads(line) | {"data": report(9001)} for line in corrected.read_text().splitlines()]
    write(corrected, [json.dumps(line).encode() for line in lines if line["message_id"] in ("text", "range")])
    before = reconciled(output, typed)
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    after = reconciled(output, typed)
    changes = {
        name: after[name] - before[name] for name in ("received", "reports", "duplicates", "quarantined")
    }
    assert changes == {"received": 0, "reports": 1, "duplicates": 1, "quarantined": -2}


def test_a_message_that_is_mended_twice_is_taken_once(output: Path, corrected: Path, typed: Typed) -> None:
    line = next(
        json.loads(line)
        for line in corrected.read_text().splitlines()
        if json.loads(line)["message_id"] == "range"
    )
    versions = [line | {"data": report(9002, accuracy=accuracy)} for accuracy in (0.5, 0.6)]
    write(corrected, [json.dumps(version).encode() for version in versions])
    code, out, err = typed("quarantine", "replay", output, "--input", corrected)
    assert (code, "1 replayed" in out, "test/range" in err) == (1, True, True)
    reconciled(output, typed)
    assert [row["accuracy"] for row in rows(output, REPORTS) if row["message_id"] == "range"] == [0.5]


def test_messages_are_replayed_as_they_were_kept_under_other_rules(output: Path, typed: Typed) -> None:
    code, out, _ = typed("quarantine", "replay", output, "--reason", "schema")
    assert (code, "0 replayed" in out) == (0, True)
    assert reconciled(output, typed)["quarantined"] == len(
        {row["message_id"] for row in rows(output, QUARANTINED)}
    )


def without_hour(output: Path, hour: int, typed: Typed) -> None:
    """Replace an hour by nothing."""
    empty = write(output.with_name("empty.ndjson"), [])
    span = [f"2025-10-22T{each:02}:00:00Z" for each in (hour, hour + 1)]
    assert (
        typed(
            "backfill", "--replace", "--from", span[0], "--to", span[1], "--input", empty, "--output", output
        )[0]
        == 0
    )


@pytest.fixture
def lost(output: Path, corrected: Path, typed: Typed) -> Path:
    """An output whose replayed message, received in the hour after its report was recorded, lost that
    report."""
    refused = report(9100, NOON + timedelta(minutes=59, seconds=58), accuracy=7)
    write(
        output.with_name("a.ndjson"),
        [*GOOD, envelope(refused, "across", NOON + timedelta(minutes=60, seconds=3))],
    )
    lost = output.with_name("lost")
    assert typed("backfill", "--input", output.with_name("a.ndjson"), "--output", lost)[0] == 0
    write(corrected, [envelope(refused | {"accuracy": 0.9}, "across")])
    assert typed("quarantine", "replay", lost, "--input", corrected)[0] == 0
    assert (fates(lost)["across"], reconciled(lost, typed)["quarantined"]) == (
        "report",
        len(refusals(lost)) - 1,
    )
    without_hour(lost, 12, typed)
    assert typed("backfill", "--input", lost.with_name("a.ndjson"), "--output", lost)[0] == 0
    return lost


def refusals(output: Path) -> list[dict[str, Any]]:
    return rows(output, QUARANTINED)


def test_a_replayed_message_whose_report_is_gone_is_missing_and_can_be_replayed_again(
    lost: Path, corrected: Path, typed: Typed
) -> None:
    code, out, _ = typed("reconcile", lost, "--input", lost.with_name("a.ndjson"), "--json")
    assert (code, json.loads(out)["missing"], "test across); run `kpiflow quarantine replay`" in out) == (
        1,
        1,
        True,
    )
    assert "test/across" in typed("quarantine", "show", lost, "across")[1]
    code, out, _ = typed("quarantine", "replay", lost, "--input", corrected)
    assert (code, "1 replayed" in out, fates(lost)["across"]) == (0, True, "report")
    reconciled(lost, typed)
    (row,) = [row for row in refusals(lost) if row["message_id"] == "across"]
    assert (row["resolution"], row["revision"]) == ("replayed", 4)
    before = on_disk(lost)
    assert typed("quarantine", "replay", lost)[0] == 0
    assert on_disk(lost) == before


def test_a_replay_opens_what_it_cannot_accept(lost: Path, typed: Typed) -> None:
    code, out, _ = typed("quarantine", "replay", lost)
    assert (code, "0 replayed" in out) == (0, True)
    assert reconciled(lost, typed)["quarantined"] == len(refusals(lost))
    before = on_disk(lost)
    assert typed("quarantine", "replay", lost)[0] == 0
    assert on_disk(lost) == before


LATE = {
    "early": envelope(
        report(9201, NOON + timedelta(minutes=31), latency_ms=111.5), "early", NOON + timedelta(minutes=29)
    ),
    "late": envelope(
        report(9202, NOON + timedelta(minutes=10), latency_ms=112.5), "late", NOON + timedelta(hours=2)
    ),
    "later": envelope(
        report(9203, NOON + timedelta(minutes=59), latency_ms=113.5), "later", NOON + timedelta(hours=5)
    ),
    "broken": envelope(report(9204, NOON, accuracy=7), "broken", NOON + timedelta(hours=2)),
}
WAIVED = {"early", "late", "later"}


@pytest.fixture
def late(output: Path, typed: Typed) -> Path:
    """An output with LATE, of which three are refused for their recency alone."""
    write(output.with_name("a.ndjson"), [*GOOD, *LATE.values()])
    place = output.with_name("late")
    assert typed("backfill", "--input", output.with_name("a.ndjson"), "--output", place)[0] == 0
    assert {name: fates(place)[name] for name in LATE} == {
        "early": "future",
        "late": "stale",
        "later": "stale",
        "broken": "schema",
    }
    return place


def resolutions(output: Path) -> dict[str, str]:
    return {row["message_id"]: row["resolution"] for row in refusals(output) if row["resolution"]}


def test_recency_is_waived_only_on_request_and_the_rows_say_so(late: Path, typed: Typed) -> None:
    before = on_disk(late)
    assert typed("quarantine", "replay", late)[0] == 0
    assert on_disk(late) == before
    code, out, _ = typed("quarantine", "replay", late, "--waive-recency")
    assert (code, "3 replayed (3 of them under a waiver of recency)" in out) == (0, True)
    assert resolutions(late) == dict.fromkeys(WAIVED, "recency waived")
    assert {name: fates(late)[name] for name in LATE} == dict.fromkeys(WAIVED, "report") | {
        "broken": "schema"
    }
    reconciled(late, typed)
    before = on_disk(late)
    assert typed("quarantine", "replay", late, "--waive-recency")[0] == 0
    assert typed("backfill", "--input", late.with_name("a.ndjson"), "--output", late)[0] == 0
    assert on_disk(late) == before


def test_a_backfill_of_the_archive_and_the_same_waiver_give_the_same_rows(
    late: Path, tmp_path: Path, typed: Typed
) -> None:
    assert (
        typed("quarantine", "replay", late, "--reason", "stale", "--reason", "future", "--waive-recency")[0]
        == 0
    )
    assert typed("backfill", "--input", late.with_name("a.ndjson"), "--output", tmp_path / "other")[0] == 0
    assert typed("parity", late, tmp_path / "other")[0] == 1
    assert typed("quarantine", "replay", tmp_path / "other", "--waive-recency")[0] == 0
    assert typed("parity", late, tmp_path / "other", "--identity")[0] == 0


@pytest.mark.parametrize("step", ["LocalEngine.run", "close_rows"])
@pytest.mark.parametrize("done", [False, True])
def test_a_waiver_that_dies_is_completed_by_the_same_command(
    late: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, step: str, done: bool
) -> None:
    whole = shutil.copytree(late, late.with_name("whole"))
    assert typed("quarantine", "replay", whole, "--waive-recency")[0] == 0
    target: Any = replay_module.LocalEngine if step == "LocalEngine.run" else replay_module
    real = getattr(target, step.rpartition(".")[2])

    def die(*words: Any, **named: Any) -> None:
        if done:
            real(*words, **named)
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(target, step.rpartition(".")[2], die)
        assert typed("quarantine", "replay", late, "--waive-recency")[0] == 3
    reconciled(late, typed)
    assert typed("quarantine", "replay", late, "--waive-recency")[0] == 0
    assert typed("parity", late, whole, "--identity")[0] == 0
    reconciled(late, typed)


def test_a_message_at_which_a_kernel_raises_again_stays_open(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = enrich.enrich

    def fails(batch: pa.RecordBatch, *options: Any) -> pa.RecordBatch:
        if 77.0 in batch["latency_ms"].to_pylist():
            raise OverflowError("too much")
        return kernel(batch, *options)

    monkeypatch.setattr(enrich, "enrich", fails)
    write(tmp_path / "a.ndjson", [envelope(report(1), "good"), envelope(report(2, latency_ms=77.0), "bad")])
    assert typed("backfill", "--input", tmp_path / "a.ndjson", "--output", tmp_path / "out")[0] == 0
    code, out, _ = typed("quarantine", "replay", tmp_path / "out")
    assert (code, "0 replayed, 1 still rejected" in out) == (0, True)
    assert reconciled(tmp_path / "out", typed)["quarantined"] == 1
    monkeypatch.undo()
    assert "1 replayed, 0 still rejected" in typed("quarantine", "replay", tmp_path / "out")[1]
    assert reconciled(tmp_path / "out", typed)["reports"] == 2
