"""Finds lines of an audit that were changed, removed, added or cut off."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.service.audit.chain import (
    ORIGIN,
    ChainHead,
    find_start,
    list_chains,
    list_months,
    parse_line,
)

MOST_PROBLEMS = 100
"""Problems of a chain that are kept; the rest is counted."""


@dataclass
class ChainReport:
    """What was found in a chain.

    `problems`: what cannot be explained by a crash. `torn`: unfinished writes that a crash left. `cut_short`:
    numbers of the lines of answers that a crash ended. `open`: those that had not ended.
    """

    name: str
    lines: int = 0
    first: str = ""
    last: str = ""
    head: ChainHead = field(default_factory=ChainHead)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    torn: list[str] = field(default_factory=list)
    cut_short: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)


def verify_audit(
    folder: Path, anchors: Iterable[tuple[str, ChainHead]] = (), expired_before: str = ""
) -> list[ChainReport]:
    """What is found in each chain below a folder.

    Args:
        folder: the audit.
        anchors: heads that were kept elsewhere, each with the name of its chain.
        expired_before: the month (YYYY-MM) before which files were removed on purpose.

    Raises:
        OSError: a file cannot be read.
    """
    wanted: dict[str, dict[int, str]] = {}
    conflicts: dict[str, list[str]] = {}
    for name, head in anchors:
        if wanted.setdefault(name, {}).setdefault(head.seq, head.hash) != head.hash:
            conflicts.setdefault(name, []).append(f"line {head.seq} was anchored with two hashes")
    names = {each.name for each in list_chains(folder)} | set(wanted)
    reports = []
    for name in sorted(names):
        scan = _Scan(ChainReport(name), wanted.get(name, {}), expired_before)
        for problem in conflicts.get(name, ()):
            scan.find(problem)
        if (folder / name).is_dir():
            for path in list_months(folder / name):
                scan.read_month(path)
        reports.append(scan.finish())
    return reports


class _Scan:
    """Reads the lines of a chain in order. `torn` is what could not be parsed yet, since line `torn_at`."""

    def __init__(self, report: ChainReport, anchors: Mapping[int, str], expired_before: str) -> None:
        self.report, self._anchors, self._expired = report, anchors, expired_before
        self._begun: dict[int, None] = {}
        self._torn, self._torn_at, self._torn_why = b"", "", ""

    def find(self, problem: str) -> None:
        """Keep a problem."""
        self.report.problem_count += 1
        if len(self.report.problems) < MOST_PROBLEMS:
            self.report.problems.append(problem)

    def read_month(self, path: Path) -> None:
        """The lines of a file."""
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                self._read_line(line, f"{path.parent.name}/{path.name}:{number}")

    def finish(self) -> ChainReport:
        """The report, once all lines were read."""
        report = self.report
        if self._torn:
            if b"\n" in self._torn and b"\0" not in self._torn:
                self.find(f"{self._torn_at} {self._torn_why}")
            else:
                report.torn.append(f"{self._torn_at}: {len(self._torn)} bytes, not followed by a start")
        if self._anchors and max(self._anchors) > report.head.seq:
            missing = f"line {max(self._anchors)} was anchored, and the last is line {report.head.seq}"
            self.find(f"{report.name} was cut off: {missing}")
        report.open = list(self._begun)
        return report

    def _read_line(self, line: bytes, where: str) -> None:
        start = find_start(line[:-1]) if line.endswith(b"\n") else None
        try:
            if not line.endswith(b"\n"):
                raise ValueError("is not complete")
            fields = parse_line(line[start or 0 : -1])
        except ValueError as error:
            if not self._torn:
                self._torn_at, self._torn_why = where, str(error)
            self._torn += line
            return
        self._explain_torn(fields, self._torn + line[: start or 0], where)
        self._link(fields, where)

    def _explain_torn(self, fields: Mapping[str, Any], torn: bytes, where: str) -> None:
        """Compare the bytes before a line that belong to no line with what the line says about them."""
        said = {"bytes": len(torn), "sha256": sha256(torn).hexdigest()} if torn else None
        if fields.get("torn") != said:
            self.find(f"{self._torn_at or where} {self._torn_why or 'lacks the torn bytes that it explains'}")
        elif torn:
            self.report.torn.append(
                f"{self._torn_at or where}: {len(torn)} bytes, explained by the next start"
            )
        self._torn, self._torn_at, self._torn_why = b"", "", ""

    def _link(self, fields: Mapping[str, Any], where: str) -> None:
        """Compare a line with the one before it and with the anchors."""
        report, seq = self.report, fields["seq"]
        if not report.lines and self._has_expired(where) and seq > 1:
            report.head = ChainHead(seq - 1, fields["prev"])
        if seq > report.head.seq + 1:
            self.find(f"{where}: lines {report.head.seq + 1} to {seq - 1} are missing before it")
        elif (seq, fields["prev"]) != (report.head.seq + 1, report.head.hash):
            self.find(f"{where} was added, or its neighbours were changed: it does not continue the chain")
        report.head = ChainHead(seq, fields["hash"])
        if self._anchors.get(seq, fields["hash"]) != fields["hash"]:
            self.find(f"{where} was rewritten: line {seq} was anchored with another hash")
        report.lines += 1
        report.first, report.last = report.first or fields["time"], fields["time"]
        self._follow(fields)

    def _has_expired(self, where: str) -> bool:
        return bool(self._expired) and where.partition("/")[2][:7] <= self._expired

    def _follow(self, fields: Mapping[str, Any]) -> None:
        """Which answers have begun and not ended."""
        if fields["type"] == "begin":
            self._begun[fields["seq"]] = None
        elif fields["type"] == "end":
            self._begun.pop(fields["of"], None)
        elif fields["type"] == "start":
            self.report.cut_short += self._begun
            self._begun.clear()


def parse_heads(text: str) -> list[tuple[str, ChainHead]]:
    """The heads in lines that end in `WRITER SEQ HASH`, as `kpiflow audit head` prints them.

    Raises:
        ValueError: a line does not.
    """
    found = []
    for line in filter(str.strip, text.splitlines()):
        words = line.split()[-3:]
        if len(words) < 3 or not words[1].isdecimal() or len(words[2]) != len(ORIGIN):
            raise ValueError(f"`{line.strip()[:100]}` does not end in WRITER SEQ HASH")
        found.append((words[0], ChainHead(int(words[1]), words[2].lower())))
    return found
