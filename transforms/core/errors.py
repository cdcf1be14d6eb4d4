"""The errors of file systems and services, in place of those of client libraries; and what a check found.

A message is `problem; fix`.
"""

import re
from dataclasses import dataclass


class Unavailable(Exception):  # noqa: N818 (a state, not only an error)
    """The service cannot be reached or is busy now; the same call may succeed later. It names the service."""

    pause: float | None = None
    """Seconds to wait before the next call, if the service says so."""


class Refused(Exception):  # noqa: N818 (an end, not only an error)
    """The same call can never succeed: no permission, no such bucket, another schema. It names the fix."""


class OutputFull(Refused):
    """No space is left on the disk of an output; its files are unchanged."""


class DamagedFile(Refused):
    """A file of an output is not as kpiflow wrote it."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check tested. `problem` is empty if it passed; `fix` says what to do."""

    what: str
    problem: str = ""
    fix: str = ""

    @classmethod
    def of(cls, what: str, error: Refused | Unavailable) -> "Finding":
        """The finding for an error whose message is `problem; fix`."""
        problem, _, fix = str(error).partition("; ")
        return cls(what, problem, fix)


def find_error(text: str) -> Refused | Unavailable | None:
    """The first error of this module, or of a class derived from one of it, in a text with Python tracebacks.

    An engine reports what a step raised in another process as text only. In a traceback the cause comes
    first. The name of the step, which Beam adds to the message, is left out. Only classes that this process
    has imported are found.
    """
    classes = {f"{each.__module__}.{each.__qualname__}": each for each in _list_classes(Refused, Unavailable)}
    names = "|".join(map(re.escape, classes))
    # A message may have several lines. It ends where Beam names the step, at an empty line, at Java's stack.
    error = rf"^(?P<name>{names}): (?P<message>.+(?:\n.+)*?)(?= \[while running '|\n\s*\n|\n\tat |\s*\Z)"
    found = re.search(error, text, re.MULTILINE)
    return classes[found["name"]](found["message"]) if found else None


def _list_classes(*classes: type[Refused | Unavailable]) -> list[type[Refused | Unavailable]]:
    """The classes and all that are derived from them."""
    return [each for one in classes for each in (one, *_list_classes(*one.__subclasses__()))]
