"""The audit: every change of its lines is found, a crash is not taken for one, and nothing is answered
without it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.service.access.subject import Subject
from pipelines.service.audit.chain import ChainHead, format_line
from pipelines.service.audit.log import LONGEST_OBJECT, AuditLog
from pipelines.service.audit.tail import read_tail
from pipelines.service.audit.verify import ChainReport, parse_heads, verify_audit
from pipelines.service.audit.writer import AuditUnavailable, ChainWriter
from tests.disks import make_disk

ANNA = Subject("anna", "kpi-consumer")
NOVEMBER = datetime(2026, 11, 27, 12, tzinfo=UTC)


def write(folder: Path, count: int = 3, name: str = "one") -> None:
    """A process that answers some requests and stops."""

    async def ask(log: AuditLog) -> None:
        for number in range(count):
            entry = await log.begin(ANNA, "query", {"name": "reports", "number": number})
            entry.end(5, "ok")

    log = AuditLog(folder, name)
    log.open()
    asyncio.run(ask(log))
    log.close()


def check(folder: Path, *heads: str, **more: str) -> ChainReport:
    (report,) = verify_audit(folder, parse_heads("\n".join(heads)), **more)
    return report


def month_file(folder: Path, name: str = "one") -> Path:
    return sorted((folder / name).glob("*.jsonl"))[-1]


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    write(tmp_path / "audit")
    return tmp_path / "audit"


def find_head(folder: Path) -> str:
    tail = read_tail(folder / "one")
    return f"one {tail.head.seq} {tail.head.hash}"


def test_each_answer_has_a_begin_and_an_end(audit: Path) -> None:
    lines = [json.loads(line) for line in month_file(audit).read_text().splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds[0] == "start"
    assert kinds[-1] == "stop"
    assert kinds.count("begin") == kinds.count("end") == 3
    begun = next(line for line in lines if line["type"] == "begin")
    assert (begun["subject"], begun["role"], begun["action"]) == ("anna", "kpi-consumer", "query")
    assert begun["object"] == {"name": "reports", "number": 0}
    end = next(line for line in lines if line["type"] == "end")
    assert (end["of"], end["rows"], end["outcome"]) == (begun["seq"], 5, "ok")
    report = check(audit)
    assert (report.problems, report.torn, report.open, report.cut_short) == ([], [], [], [])


def test_only_its_owner_can_read_it(audit: Path) -> None:
    assert audit.stat().st_mode & 0o777 == (audit / "one").stat().st_mode & 0o777 == 0o700
    assert month_file(audit).stat().st_mode & 0o777 == 0o600


def test_a_chain_goes_on_in_the_next_process(audit: Path) -> None:
    before = find_head(audit)
    write(audit)
    report = check(audit, before, find_head(audit))
    assert report.problems == []
    assert report.lines == 16


def _change(lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b"anna", b"otto") if b"anna" in lines[3] else lines[3].replace(b"5", b"6", 1)


def _change_and_hash_again(lines: list[bytes]) -> None:
    fields = json.loads(lines[1])
    more = {
        name: value
        for name, value in fields.items()
        if name not in ("seq", "time", "prev", "hash", "subject")
    }
    lines[1] = format_line(ChainHead(1, fields["prev"]), {**more, "subject": "otto"}, NOVEMBER)[0]


def _remove(lines: list[bytes]) -> None:
    del lines[2]


def _remove_the_first(lines: list[bytes]) -> None:
    del lines[0]


def _add(lines: list[bytes]) -> None:
    lines.insert(4, lines[2])


def _add_a_new_one(lines: list[bytes]) -> None:
    last = json.loads(lines[2])
    lines.insert(3, format_line(ChainHead(last["seq"], last["hash"]), {"type": "begin"}, NOVEMBER)[0])


def _add_lines_of_another_form(lines: list[bytes]) -> None:
    """Their hashes are right, so that their members are read."""
    last = json.loads(lines[-1])
    head = ChainHead(last["seq"], last["hash"])
    for fields in ({}, {"type": "end"}, {"type": "end", "of": []}, {"type": "begin", "time": None}):
        line, head = format_line(head, fields, NOVEMBER)
        lines.append(line)
    body = b'{"seq":1,"deep":' + b"[" * 200_000
    lines.append(body + b',"hash":"' + sha256(body).hexdigest().encode() + b'"}\n')


def _swap(lines: list[bytes]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def _add_text(lines: list[bytes]) -> None:
    lines.insert(3, b"no line at all\n")


def _cut_a_line_in_two(lines: list[bytes]) -> None:
    lines[3] = lines[3][:40] + b"\n" + lines[3][40:]


@pytest.mark.parametrize(
    "tamper",
    [
        _change,
        _change_and_hash_again,
        _remove,
        _remove_the_first,
        _add,
        _add_a_new_one,
        _add_lines_of_another_form,
        _swap,
        _add_text,
        _cut_a_line_in_two,
    ],
)
def test_a_changed_removed_or_added_line_is_found(audit: Path, tamper: Callable[[list[bytes]], None]) -> None:
    path = month_file(audit)
    lines = path.read_bytes().splitlines(keepends=True)
    before = list(lines)
    tamper(lines)
    assert lines != before
    path.write_bytes(b"".join(lines))
    assert check(audit).problems
    assert run(["audit", "verify", str(audit)]) == 1


def test_lines_that_were_cut_off_are_found_with_an_anchored_head(audit: Path) -> None:
    head = find_head(audit)
    path = month_file(audit)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert check(audit).problems == []
    assert "was cut off" in check(audit, head).problems[0]


def test_a_chain_that_was_written_again_is_found_with_an_anchored_head(audit: Path) -> None:
    head = find_head(audit)
    month_file(audit).unlink()
    write(audit)
    assert check(audit).problems == []
    assert "was rewritten" in check(audit, head).problems[0]


def test_a_chain_that_was_removed_is_found_with_an_anchored_head(audit: Path) -> None:
    head = find_head(audit)
    write(audit, name="two")
    for path in (audit / "one").iterdir():
        path.unlink()
    assert {each.name: len(each.problems) for each in verify_audit(audit, parse_heads(head))} == {
        "one": 1,
        "two": 0,
    }


@pytest.mark.parametrize("torn", [b'{"seq":9,"time":"2026-', b"\0" * 300, b'{"seq":9\0\0\n\0', b'{"seq":'])
def test_a_torn_line_is_explained_by_the_next_start(audit: Path, torn: bytes) -> None:
    with month_file(audit).open("ab") as file:
        file.write(torn)
    assert check(audit).problems == []
    assert len(check(audit).torn) == 1
    write(audit)
    write(audit)
    report = check(audit, find_head(audit))
    assert report.problems == []
    assert [text.endswith("explained by the next start") for text in report.torn] == [True]


def test_a_start_that_is_torn_itself_is_explained(audit: Path) -> None:
    with month_file(audit).open("ab") as file:
        file.write(b"torn once")
    write(audit, 0)
    path = month_file(audit)
    path.write_bytes(path.read_bytes()[:-200])  # within the line of the start
    write(audit)
    assert check(audit).problems == []


def test_bytes_that_look_torn_and_are_not_explained_are_found(audit: Path) -> None:
    write(audit)
    path = month_file(audit)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[8] = b"x" + lines[8]  # before the second start
    path.write_bytes(b"".join(lines))
    assert check(audit).problems


def test_an_answer_that_a_crash_ended_is_shown_as_such(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from pipelines.service.access.subject import Subject
from pipelines.service.audit.log import AuditLog
async def ask():
    log = AuditLog(Path({str(tmp_path)!r}), "one")
    log.open()
    await log.begin(Subject("anna", "kpi-consumer"), "query", "reports")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(ask())
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert check(tmp_path).open == [2]
    write(tmp_path)
    report = check(tmp_path)
    assert (report.problems, report.open, report.cut_short) == ([], [], [2])


def test_two_processes_cannot_write_one_chain(tmp_path: Path) -> None:
    first, second = AuditLog(tmp_path, "one"), AuditLog(tmp_path, "one")
    first.open()
    with pytest.raises(AuditUnavailable, match="another process"):
        second.open()
    first.close()


def test_nothing_is_added_to_a_chain_whose_last_line_was_changed(audit: Path) -> None:
    path = month_file(audit)
    path.write_bytes(path.read_bytes().replace(b'"stop"', b'"stap"'))
    with pytest.raises(AuditUnavailable, match="audit verify"):
        AuditLog(audit, "one").open()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with make_disk(folder, "64k") as disk:
        yield disk


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


async def ask_until_refused(log: AuditLog) -> None:
    for _ in range(100):
        await log.begin(ANNA, "query", "full")


def test_a_full_disk_ends_answers_and_once_there_is_space_the_chain_goes_on(small_disk: Path) -> None:
    async def ask() -> AuditLog:
        log = AuditLog(small_disk / "audit", "one")
        log.open()
        entry = await log.begin(ANNA, "query", "before")
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        with pytest.raises(AuditUnavailable, match="No space"):
            await ask_until_refused(log)
        assert log.problem is not None
        entry.end(1, "ok")
        filler.unlink()
        (await log.begin(ANNA, "query", "after")).end(1, "ok")
        return log

    log = asyncio.run(ask())
    assert log.problem is None
    log.close()
    report = check(small_disk / "audit", find_head(small_disk / "audit"))
    assert (report.problems, report.cut_short) == ([], [])
    assert 2 not in report.open  # its end was kept until it could be written


def test_a_failed_sync_ends_the_writing_until_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ChainWriter(tmp_path, "one")
    writer.open()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(AuditUnavailable):
            writer.write([{"type": "begin"}])
    with pytest.raises(AuditUnavailable, match="check the disk"):
        writer.write([{"type": "begin"}])
    writer.close()


@pytest.mark.parametrize("moved", [False, True])
def test_nothing_is_answered_once_the_file_is_not_in_its_place(tmp_path: Path, moved: bool) -> None:
    """As after rm, or logrotate: an open file takes lines that nobody would find."""
    writer = ChainWriter(tmp_path, "one")
    writer.open()
    path = month_file(tmp_path)
    path.rename(tmp_path / "kept")
    if moved:
        path.write_bytes((tmp_path / "kept").read_bytes())
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="was removed or replaced"):
            writer.write([{"type": "begin"}])
    writer.close()
    (tmp_path / "kept").replace(path)
    write(tmp_path)
    assert check(tmp_path).problems == []


def test_a_month_has_its_file_and_a_clock_that_goes_back_does_not_change_it(tmp_path: Path) -> None:
    now = [NOVEMBER]
    writer = ChainWriter(tmp_path, "one", lambda: now[0])
    writer.open()
    for days in (0, 10, -20, 40):
        now[0] = NOVEMBER + timedelta(days=days)
        writer.write([{"type": "stop"}])
    writer.close()
    assert [path.stem for path in sorted(tmp_path.glob("one/*.jsonl"))] == ["2026-11", "2026-12", "2027-01"]
    assert check(tmp_path).problems == []
    (tmp_path / "one" / "2026-11.jsonl").unlink()
    assert check(tmp_path).problems
    assert check(tmp_path, expired_before="2026-12").problems == []
    (tmp_path / "one" / "2026-12.jsonl").unlink()
    assert check(tmp_path, expired_before="2026-12").problems


def test_what_is_asked_cannot_add_a_line_or_fill_the_disk(tmp_path: Path) -> None:
    async def ask(log: AuditLog) -> None:
        await log.refuse(ANNA, 'x"}\n{"seq":9', "y\n" * 1_000_000, 400, "z\0\n" * 1_000_000)

    log = AuditLog(tmp_path, "one")
    log.open()
    asyncio.run(ask(log))
    log.close()
    assert check(tmp_path).lines == 3
    assert month_file(tmp_path).stat().st_size < 2 * LONGEST_OBJECT


def test_requests_at_one_time_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    sync = os.fdatasync

    def count(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", count)
    log = AuditLog(tmp_path, "one")
    log.open()

    async def ask() -> None:
        await asyncio.gather(*(log.begin(ANNA, "query", number) for number in range(200)))

    asyncio.run(ask())
    log.close()
    assert syncs < 20
    assert len(check(tmp_path).open) == 200


def test_an_audit_of_which_nothing_is_left_is_a_finding_where_a_head_is_given(tmp_path: Path) -> None:
    assert run(["audit", "verify", str(tmp_path), "--head", f"one 3 {'a' * 64}"]) == 1
    assert run(["audit", "verify", str(tmp_path)]) == 2


def test_head_prints_what_verify_takes(
    audit: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["audit", "head", str(audit)]) == 0
    line = capsys.readouterr().out
    kept = tmp_path / "heads"
    kept.write_text(f"Nov 27 12:00:01 host kpiflow-audit: {line}")
    assert run(["audit", "verify", str(audit), "--head", str(kept)]) == 0
    assert run(["audit", "verify", str(audit), "--head", line, "--json"]) == 0
    assert run(["audit", "verify", str(audit), "--head", "nonsense"]) == 2
    assert run(["audit", "verify", str(tmp_path / "nothing")]) == 3
    assert run(["audit", "verify", str(tmp_path)]) == 2
