"""When the stream of the simulator is down, and when its sockets are dropped; the export is not affected."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outages:
    """All in seconds of the simulator's clock after its start.

    The sockets are dropped each `every` seconds (0: never), and the stream is down for `duration` seconds
    from `begin` on.
    """

    every: float = 0.0
    begin: float = 0.0
    duration: float = 0.0

    def is_down(self, elapsed: float) -> bool:
        """Whether the stream is down."""
        return self.begin <= elapsed < self.begin + self.duration

    def drops_between(self, before: float, now: float) -> bool:
        """Whether sockets are to be dropped at a time after `before` until `now`."""
        starts = bool(self.duration) and before < self.begin <= now
        return starts or bool(self.every and now // self.every > before // self.every)
