"""The faults of the simulator: which request and which report has one depends only on the seed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from pipelines.synthetic.messages import check_share

REFUSED, FAILED, TIMEOUT, CUT = "429", "500", "timeout", "cut"
SHORT, REPEATED, FALSE_LAST, COUNT = "short", "repeated", "false-last", "count"
DROP, SILENCE = "drop", "silence"
OF_REQUESTS = (REFUSED, FAILED, TIMEOUT, CUT, SHORT, REPEATED, FALSE_LAST, COUNT)
"""Faults of a request of the export; a request has at most one."""
OF_SOCKETS = (DROP, SILENCE)
"""Faults of all open sockets, at a report."""


@dataclass(frozen=True)
class Faults:
    """The probability of each fault by name; `given` counts the faults that there were."""

    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    given: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a name is unknown, or probabilities are not possible.
        """
        for name, share in self.shares.items():
            if name not in OF_REQUESTS + OF_SOCKETS:
                known = ", ".join(OF_REQUESTS + OF_SOCKETS)
                raise ValueError(f"no fault is called {name}; there are {known}")
            check_share(name, share)
        if sum(self.shares.get(name, 0.0) for name in OF_REQUESTS) > 1 + 1e-9:
            raise ValueError("the faults of requests add up to more than 1; a request has at most one")

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "Faults":
        """The faults of `NAME=PROBABILITY,...`.

        Raises:
            ValueError: it has another form, a name is unknown, or probabilities are not possible.
        """
        pairs = [pair.partition("=") for pair in text.split(",") if pair]
        try:
            shares = {name.strip(): float(share) for name, _, share in pairs}
        except ValueError as error:
            raise ValueError(f"faults {text!r} are not written like 429=0.01,drop=0.001") from error
        return cls(shares, seed)

    def choose(self, request: int) -> tuple[str, float]:
        """The fault of a request by its number, `""` if it has none, and how large it is, in [0, 1)."""
        left = self._draw("request", request)
        for name in OF_REQUESTS:
            left -= self.shares.get(name, 0.0)
            if left < 0:
                return name, self._draw("size", request)
        return "", 0.0

    def has_at(self, name: str, report: int) -> bool:
        """Whether the sockets have this fault when the report of this number is offered."""
        share = self.shares.get(name, 0.0)
        return share > 0 and self._draw(name, report) < share

    def _draw(self, purpose: str, number: int) -> float:
        """A number in [0, 1)."""
        digest = blake2b(f"{self.seed}/{purpose}/{number}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / (1 << 53)
