"""Who asks: the subject of a request, and why it is refused."""

from dataclasses import dataclass
from datetime import datetime

NOBODY = "nobody"


class Unidentified(Exception):  # noqa: N818 (an answer: 401)
    """It is not known who asks."""


class Forbidden(Exception):  # noqa: N818 (an answer: 403)
    """The subject has no right to what it asks for."""


@dataclass(frozen=True)
class Subject:
    """Who asks.

    `role`: empty if it has none. `grants`: tables whose restricted columns it may see. `until`: when its
    certificate ends; None without one. `certificate`: its SHA-256; empty without one.
    """

    name: str
    role: str
    grants: frozenset[str] = frozenset()
    until: datetime | None = None
    certificate: str = ""


STRANGER = Subject(NOBODY, "")
"""The subject of a request whose sender is not known."""
