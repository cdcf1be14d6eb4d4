"""The clock of the simulator."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.synthetic.columns import SECOND


@dataclass(frozen=True)
class SimulatedClock:
    """Runs from `start` (microseconds since 1970) at `speed` times the speed of a real clock."""

    start: int
    speed: float = 1.0
    monotonic: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "began", self.monotonic())

    def elapsed(self) -> float:
        """Seconds of this clock since its start."""
        return (self.monotonic() - self.began) * self.speed

    def now(self) -> int:
        """Microseconds since 1970."""
        return self.start + int(self.elapsed() * SECOND)
