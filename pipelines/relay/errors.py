"""What can go wrong with Layer 4, in words: each message is `problem; fix`."""

from transforms.core.errors import Refused, Unavailable


class Layer4Unavailable(Unavailable):
    """Layer 4 does not answer as it should now; a later attempt may succeed."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class Layer4Refused(Refused):
    """Layer 4 refuses this client, or this client refuses Layer 4."""
