"""The errors of file systems and services, in place of those of client libraries; and what a check found.

A message is `problem; fix`.
"""

from dataclasses import dataclass


class Unavailable(Exception):  # noqa: N818 (a state, not only an error)
    """The service cannot be reached or is busy now; the same call may succeed later. It names the service."""


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
