"""One request on its way: what its route says, who asks, with which rights, and how many rows it got."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.service.guards import Rights, Subject

if TYPE_CHECKING:
    from pipelines.service.service import Service


@dataclass
class Exchange:
    """What a handler gets beside the request. It sets `rows` to the number of rows that it sends.

    `body`: what was sent to a route that takes something.
    """

    service: "Service"
    subject: Subject
    rights: Rights
    body: bytes = b""
    rows: int = 0
