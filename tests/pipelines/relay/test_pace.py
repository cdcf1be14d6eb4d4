"""Layer 4 is never asked more often than it allows."""

import asyncio

import pytest

from pipelines.relay.pace import LEAST_SECONDS, REQUESTS, SECONDS, Pace


class Clock:
    """A clock that sleeping moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("least", [0.0, LEAST_SECONDS])
def test_at_most_a_thousand_requests_begin_in_any_minute(
    monkeypatch: pytest.MonkeyPatch, least: float
) -> None:
    clock, begun = Clock(), []
    monkeypatch.setattr("pipelines.relay.pace.LEAST_SECONDS", least)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    pace = Pace(clock)

    async def ask() -> None:
        for _ in range(2500):
            await pace.wait()
            begun.append(clock.now)

    asyncio.run(ask())
    assert all(later - first >= SECONDS - 1e-6 for first, later in zip(begun, begun[REQUESTS:]))
    assert all(later - first >= least - 1e-9 for first, later in zip(begun, begun[1:]))
