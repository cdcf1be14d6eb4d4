"""The reports of a page that is complete but no JSON, each with its own bytes.

Where a report ends depends only on its bytes and on how the next one begins. So it is found again, with the
same bytes, on any other page.
"""

import json
import re
from collections.abc import Iterator

_ARRAY = re.compile(rb'"kpi_reports"\s*:\s*\[')
_ENDS = 8
"""So many brackets before the end of a page are tried as the end of its reports."""
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{}\],]', re.DOTALL)
_NEXT = re.compile(r",\s*\{")
_CROSSES = re.compile(r',\s*\{\s*"\Z')
"""The end of a text that is none: a quote is missing, and it reaches into the next report."""
_decoder = json.JSONDecoder(strict=False)


def list_frames(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Ways to read a page as a frame (the page without its reports) and the text of its reports, the longest
    text first."""
    if not (opened := _ARRAY.search(body)):
        return
    ends = [found.start() for found in re.finditer(rb"\]", body) if found.start() >= opened.end()]
    for end in reversed(ends[-_ENDS:]):
        yield body[: opened.end()] + body[end:], body[opened.end() : end]


def split_reports(text: bytes) -> list[bytes]:
    """The reports of a text that is their list, without its brackets. What is no JSON is a report of its own,
    up to where the next one seems to begin; nothing between two commas is none."""
    chars = text.decode("latin-1")  # a character is a byte
    reports: list[bytes] = []
    start = _skip_space(chars, 0)
    while start < len(chars):
        end = _find_end(chars, start)
        if report := text[start:end].strip(b" \t\r\n"):
            reports.append(report)
        start = _skip_space(chars, end + 1)
    return reports


def _find_end(chars: str, start: int) -> int:
    """The place of the comma after a report, or of the end."""
    try:
        end = _skip_space(chars, _decoder.raw_decode(chars, start)[1])
        if end == len(chars) or chars[end] == ",":
            return end
    except (ValueError, RecursionError):
        pass
    found = _find_end_of_broken(chars, start)
    if found is None:  # a list that is never closed: it ends where any object begins
        begins = _NEXT.search(chars, start)
        return begins.start() if begins else len(chars)
    return found


def _find_end_of_broken(chars: str, start: int) -> int | None:
    """The same for a report that is no JSON; None if its brackets do not say where it ends."""
    opened: list[str] = []
    at = start
    while token := _TOKEN.search(chars, at):
        kind, at = token[0], token.end()
        if kind[0] == '"':
            if crosses := _CROSSES.search(kind):
                return None if "[" in opened else token.start() + crosses.start()
        elif kind in "{[":
            opened.append(kind)
        elif kind == ",":
            if not opened or (opened[-1] == "{" and _NEXT.match(chars, token.start())):
                return None if "[" in opened else token.start()
        elif _close(opened, kind) and _NEXT.search(chars, start, at):  # objects of the list may be reports
            return None
    return None if opened else len(chars)


def _close(opened: list[str], bracket: str) -> bool:
    """Take what a bracket closes from the open ones. Whether that left a list that was not closed."""
    if bracket == "]":
        if opened[-1:] == ["["]:
            opened.pop()
        return False
    if "{" not in opened:
        return False
    has_list = opened[-1] == "["
    while opened.pop() != "{":
        pass
    return has_list


def _skip_space(chars: str, start: int) -> int:
    found = _SPACE.match(chars, start)
    assert found is not None
    return found.end()
