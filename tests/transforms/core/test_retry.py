"""Retries: an unavailable service is asked again until patience ends; colliding writers wait ever longer, but
not the same."""

import asyncio
import random
import time

import pytest

from transforms.core import retry
from transforms.core.errors import Refused, Unavailable
from transforms.core.retry import back_off, retry_while_unavailable, retry_without_end


def test_an_unavailable_service_is_asked_again_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    calls = []
    for attempt in retry_while_unavailable(60):
        with attempt:
            calls.append(attempt.num)
            if len(calls) < 3:
                raise Unavailable("busy")
    assert calls == [1, 2, 3]


def test_what_is_refused_is_not_asked_again() -> None:
    calls: list[int] = []
    with pytest.raises(Refused):
        ask_in_vain(calls)
    assert calls == [1]


def ask_in_vain(calls: list[int]) -> None:
    for attempt in retry_while_unavailable(60):
        with attempt:
            calls.append(attempt.num)
            raise Refused("no permission")


def test_without_end_each_refusal_is_reported_and_the_pause_is_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    said: list[str] = []

    async def ask() -> int:
        async for attempt in retry_without_end(said.append):
            with attempt:
                if attempt.num < 3:
                    error = Unavailable(f"busy {attempt.num}")
                    error.pause = 0.2 if attempt.num == 1 else None
                    raise error
                return attempt.num
        raise AssertionError("it has no end")

    began = time.monotonic()
    assert asyncio.run(ask()) == 3
    assert said == ["busy 1", "busy 2"]
    assert time.monotonic() - began >= 0.2


def test_pauses_double_up_to_a_limit_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert list(back_off(5, 1.0, 5.0)) == [0, 1, 2, 3, 4]
    assert slept == [1.0, 2.0, 4.0, 5.0]
    slept.clear()
    monkeypatch.undo()
    monkeypatch.setattr(time, "sleep", slept.append)
    for number in back_off(None, 1.0, 1.0):
        if number == 1500:
            break
    assert len(slept) == 1500
    assert 0.5 <= min(slept) < max(slept) <= 1.0
