"""Messages of every kind through the commands: counted, listed, replayed and dismissed as what they are."""

import hashlib
import json
import shutil
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.backfill import backfill
from pipelines.jobs.engines import LocalEngine
from pipelines.settings import Settings
from schemas.kinds import KINDS
from schemas.tables import DUPLICATES, QUARANTINED, TABLES
from tests.builders import NOON, agent_record, health, report, result, task
from tests.integration.archives import Typed, envelope, on_disk, rows, write
from transforms.core.time_range import Span
from transforms.sources.archives.archive_files import find_files
from transforms.storage.local_folder import LocalFolder

SOON = NOON + timedelta(seconds=1)
GOOD = {
    "kpi_report": report(1),
    "task": task(1),
    "execution_result": result(1),
    "agent": agent_record(1),
    "system_health": health(),
}
"""A valid message of each kind."""
WRONG = {
    "kpi_report": report(2, accuracy=7),
    "task": task(2, priority=51),
    "execution_result": result(2, success="yes"),
    "agent": agent_record(2, state=""),
    "system_health": health(active_agents=-1),
}
"""A message of each kind that is not valid; what is missing to CORRECT."""
CORRECT = {
    "kpi_report": report(2),
    "task": task(2),
    "execution_result": result(2),
    "agent": agent_record(2),
    "system_health": health(active_agents=4),
}


def of_kind(kind: str, document: Any, name: str, minutes: float = 0) -> bytes:
    """The envelope of a message of a kind."""
    return envelope(document, name, SOON + timedelta(minutes=minutes), KINDS[kind].stream)


ARCHIVE = [
    *(of_kind(kind, document, "1-0") for kind, document in GOOD.items()),
    *(of_kind(kind, document, "2-0", 1) for kind, document in GOOD.items()),
    *(of_kind(kind, document, "3-0", -0.01) for kind, document in WRONG.items()),
    of_kind("execution_result", result(3, NOON - timedelta(hours=3)), "4-0"),
]
"""Of each kind a message, the same content again, and a wrong one; and a result that came too late."""


def fill(output: Path, lines: list[bytes]) -> Path:
    """An output made from these lines, which are `a.ndjson` beside it."""
    archive = write(output.with_name("a.ndjson"), lines)
    settings = Settings.model_construct().model_copy(update={"shards": 1, "workers": 1})
    backfill(find_files([str(archive)]), [str(output)], settings, Span(), LocalEngine())
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ARCHIVE and its output `out`."""
    folder = tmp_path_factory.mktemp("kinds")
    fill(folder / "out", ARCHIVE)
    return folder


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy") / "out"


@pytest.fixture
def corrected(output: Path, typed: Typed) -> Path:
    """What `quarantine show --export` writes, with the messages corrected."""
    exported = output.with_name("corrected.ndjson")
    assert typed("quarantine", "show", output, "--reason", "schema", "--export", exported)[0] == 0
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    data = {KINDS[kind].stream: document for kind, document in CORRECT.items()}
    return write(exported, [json.dumps(line | {"data": data[line["source"]]}).encode() for line in lines])


def reconciled(output: Path, typed: Typed) -> dict[str, Any]:
    """The counts of an output that reconciles with its archive."""
    code, out, _ = typed("reconcile", output, "--input", output.with_name("a.ndjson"), "--json")
    assert code == 0, out
    found: dict[str, Any] = json.loads(out)
    return found


def stored(output: Path) -> dict[str, set[str]]:
    """The ids of the stored messages of each kind."""
    return {
        name: {row["message_id"] for row in rows(output, kind.table, ["message_id"])}
        for name, kind in KINDS.items()
    }


def test_every_message_of_every_kind_has_one_fate_and_is_counted_as_its_kind(
    output: Path, typed: Typed
) -> None:
    found = reconciled(output, typed)
    plain = {"stored": 1, "duplicates": 1, "quarantined": 1}
    others = {
        "execution_result": plain | {"quarantined": 2},
        "system_health": plain | {"stored": 2, "duplicates": 0},
    }
    assert found["kinds"] == dict.fromkeys(KINDS, plain) | others
    assert (found["received"], found["reports"], found["records"]) == (len(ARCHIVE), 1, 5)
    code, out, _ = typed("reconcile", output)
    assert (code, "execution_result       1           1            2" in out) == (0, True), out
    summary = json.loads(typed("show", output, "--json")[1])
    kinds = {each["kind"]: {name: each[name] for name in plain} for each in summary["kinds"]}
    assert (summary["received"], kinds) == (len(ARCHIVE), found["kinds"])
    assert "Messages by kind" in typed("show", output)[1]


def test_quarantine_is_listed_and_shown_by_kind(output: Path, typed: Typed) -> None:
    listed = json.loads(typed("quarantine", "list", output, "--json")[1])
    assert {(each["kind"], each["reason"], each["messages"]) for each in listed} == {
        *((kind, "schema", 1) for kind in KINDS),
        ("execution_result", "stale", 1),
    }
    assert "kind" in typed("quarantine", "list", output)[1]
    only = json.loads(typed("quarantine", "list", output, "--kind", "task", "--json")[1])
    assert [each["field"] for each in only] == ["priority"]
    shown = typed("quarantine", "show", output, "--kind", "agent")[1]
    assert shown.startswith("layer4_agents/3-0 (agent) received ")
    assert typed("quarantine", "show", output, "--kind", "dream")[0] == 2


def test_corrected_messages_go_to_the_tables_of_their_kinds(
    output: Path, corrected: Path, typed: Typed
) -> None:
    before = reconciled(output, typed)
    code, out, _ = typed("quarantine", "replay", output, "--input", corrected)
    assert (code, "5 replayed" in out) == (0, True), out
    assert all("3-0" in ids for ids in stored(output).values())
    after = reconciled(output, typed)
    assert (after["reports"], after["records"], after["quarantined"]) == (2, 9, 1)
    assert after["received"] == before["received"]
    files = on_disk(output)
    assert typed("quarantine", "replay", output)[0] == 0
    assert on_disk(output) == files


def test_one_kind_is_replayed_and_the_others_stay(output: Path, corrected: Path, typed: Typed) -> None:
    code, out, err = typed("quarantine", "replay", output, "--input", corrected, "--kind", "task")
    assert (code, "1 replayed" in out, "not open in quarantine: layer4_agents/3-0" in err) == (1, True, True)
    assert [name for name, ids in stored(output).items() if "3-0" in ids] == ["task"]
    reconciled(output, typed)


def test_a_stale_result_is_accepted_by_a_waiver(output: Path, typed: Typed) -> None:
    code, out, _ = typed("quarantine", "replay", output, "--waive-recency")
    assert (code, "1 replayed (1 of them under a waiver of recency)" in out) == (0, True), out
    assert stored(output)["execution_result"] == {"1-0", "4-0"}
    reconciled(output, typed)


def test_a_dismissed_task_is_no_longer_expected(output: Path, typed: Typed) -> None:
    words = ("--id", "layer4_tasks/3-0", "--reason", "withdrawn")
    assert typed("quarantine", "dismiss", output, *words)[0] == 0
    kept = [line for line in ARCHIVE if not (b"layer4_tasks" in line and b"3-0" in line)]
    write(output.with_name("a.ndjson"), kept)
    found = reconciled(output, typed)
    assert (found["dismissed"], found["kinds"]["task"]["quarantined"]) == (1, 0)


def test_a_replayed_task_whose_row_is_gone_is_missing_and_can_be_replayed_again(
    output: Path, corrected: Path, typed: Typed
) -> None:
    assert typed("quarantine", "replay", output, "--input", corrected)[0] == 0
    shutil.rmtree(output / "tasks")
    assert typed("backfill", "--input", output.with_name("a.ndjson"), "--output", output)[0] == 0
    code, out, _ = typed("reconcile", output, "--input", output.with_name("a.ndjson"), "--json")
    assert (code, "reports or records that are gone (e.g. layer4_tasks 3-0)" in out) == (1, True), out
    assert typed("quarantine", "replay", output, "--input", corrected, "--kind", "task")[0] == 1
    assert stored(output)["task"] == {"1-0", "3-0"}
    reconciled(output, typed)


@pytest.fixture
def earlier(output: Path) -> Path:
    """A correction of the wrong task into the task that is stored. It was received before that one, so it
    takes its place.
    """
    return write(output.with_name("earlier.ndjson"), [of_kind("task", GOOD["task"], "3-0")])


@pytest.mark.parametrize(
    ("table", "done"),
    [("duplicates", False), ("tasks", False), ("quarantine", False), ("quarantine", True)],
    ids=["before the displaced message is written", "before its task", "before its row", "after its row"],
)
def test_a_replay_of_a_task_that_dies_is_completed_by_the_same_command(
    output: Path, earlier: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, table: str, done: bool
) -> None:
    whole = shutil.copytree(output, output.with_name("whole"))
    assert typed("quarantine", "replay", whole, "--input", earlier)[0] == 0
    put, died = LocalFolder.put, []

    def die(folder: LocalFolder, name: str, *arguments: Any) -> None:
        if not name.startswith(f"{table}/"):
            put(folder, name, *arguments)
            return
        if done:
            put(folder, name, *arguments)
        died.append(name)
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "put", die)
        assert typed("quarantine", "replay", output, "--input", earlier)[0] == 3
    assert died
    half = json.loads(typed("reconcile", output, "--input", output.with_name("a.ndjson"), "--json")[1])
    assert (half["received"], half["missing"], half["surplus"]) == (len(ARCHIVE), 0, 0)
    assert all("run `kpiflow derive" in problem for problem in half["problems"]), half["problems"]
    assert typed("quarantine", "replay", output, "--input", earlier)[0] == int(done)
    assert typed("parity", output, whole, "--identity")[0] == 0
    assert stored(output)["task"] == {"3-0"}
    assert {row["message_id"] for row in rows(output, DUPLICATES) if row["kind"] == "task"} == {"1-0", "2-0"}
    reconciled(output, typed)


def test_any_order_gives_the_same_tables(made: Path, tmp_path: Path, typed: Typed) -> None:
    output = fill(tmp_path / "out", ARCHIVE[::-2])
    fill(output, ARCHIVE[-2::-2])
    code, out, _ = typed("parity", output, made / "out", "--identity")
    assert (code, {line.split()[0] for line in out.splitlines()} >= {*TABLES}) == (0, True), out


def test_outputs_whose_records_differ_are_not_at_parity(made: Path, tmp_path: Path, typed: Typed) -> None:
    others = {"task": task(9), "system_health": health(active_agents=9)}
    lines = [of_kind(kind, others.get(kind, document), "1-0") for kind, document in GOOD.items()]
    output = fill(tmp_path / "out", lines)
    again = fill(tmp_path / "again", [of_kind(kind, GOOD[kind], "7-0") for kind in GOOD])
    tables = {kind.table.name for kind in KINDS.values()}
    for flags, names in ((["--identity"], set(GOOD)), ([], {"task", "system_health"})):
        code, out, _ = typed("parity", output, again, *flags, "--json")
        compared = json.loads(out)["tables"].items()
        different = {name for name, each in compared if each["only_a"] or each["different"]}
        assert (code, different & tables) == (1, {KINDS[name].table.name for name in names}), flags
    assert not rows(output, QUARANTINED)


def test_a_program_of_5_mb_costs_its_neighbours_nothing(tmp_path: Path, typed: Typed) -> None:
    """It is longer than a report may be, and not stored: its length and its digest are."""
    program = bytes(range(256)) * 20_000
    big = agent_record(7, wasm_binary=b64encode(program).decode())
    lines = [*ARCHIVE, of_kind("agent", big, "5-0"), of_kind("kpi_report", report(7) | {"note": big}, "5-0")]
    archive = write(tmp_path / "a.ndjson", lines)
    assert typed("backfill", "--input", archive, "--output", tmp_path / "out", "--workers", "1")[0] == 0
    stored = {row["message_id"]: row for row in rows(tmp_path / "out", KINDS["agent"].table)}
    assert stored["5-0"]["wasm_bytes"] == len(program)
    assert stored["5-0"]["wasm_sha256"] == hashlib.sha256(program).hexdigest()
    assert len(rows(tmp_path / "out", KINDS["kpi_report"].table)) == 1
    refused = [row for row in rows(tmp_path / "out", QUARANTINED) if row["message_id"] == "5-0"]
    assert [(row["kind"], row["reason"]) for row in refused] == [("kpi_report", "oversize")]
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.parquet")) < 2_000_000
    assert typed("reconcile", tmp_path / "out", "--input", archive)[0] == 0
