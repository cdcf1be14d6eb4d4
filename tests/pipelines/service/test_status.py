"""/kpi/status: the numbers of `kpiflow show`, counted once for all who ask."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.service import status
from pipelines.service.guards import Guards, Subject
from pipelines.service.status import StatusCounts
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Summary
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import make_output
from tests.service import make_service, run_service

CONSUMER = Subject("reader", "kpi-consumer", frozenset())


def test_its_numbers_are_those_of_show(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    shown = summarise(output)
    with run_service(make_service(output)) as service:
        answer = service.get("/kpi/status").json
    for name in ("received", "reports", "records", "duplicates", "quarantined", "failed", "agents"):
        assert answer[name] == getattr(shown, name)
    assert (answer["output"], answer["live"]) == ("out", None)
    assert sum(hour["reports"] for hour in answer["hours"]) == shown.reports == 900


def test_what_is_counted_from_a_column_without_right_is_left_out_and_listed(tmp_path: Path) -> None:
    guards = Guards(identify=lambda _: CONSUMER)
    with run_service(make_service(make_output(tmp_path / "out"), guards=guards)) as service:
        answer = service.get("/kpi/status").json
    assert "failed" not in answer
    assert answer["withheld"] == ["failed"]


def test_one_count_answers_all_who_wait_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(status, "COST", 0)
    summary, counts, go = summarise(make_output(tmp_path / "out")), [], threading.Event()

    def count(folder: Path) -> Summary:
        counts.append(folder)
        go.wait(PATIENCE)
        return summary

    async def ask() -> list[Any]:
        kept = StatusCounts(tmp_path, count)
        waiting = [asyncio.create_task(kept.read()) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # a client that leaves
        go.set()
        answers = await asyncio.gather(*waiting[1:])
        answers.append(await kept.read())
        time.sleep(0.2)
        answers.append(await kept.read())
        return answers

    answers = asyncio.run(ask())
    assert len(counts) == 2
    assert len({id(each) for each in answers}) == 2


def test_who_asks_while_a_count_takes_long_gets_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "FRESH_SECONDS", 0)
    monkeypatch.setattr(status, "COST", 0)
    monkeypatch.setattr(status, "PATIENCE_SECONDS", 0.1)
    first, second = (summarise(make_output(tmp_path / name)) for name in ("a", "b"))
    made, go = iter([first, second, second]), threading.Event()
    go.set()

    def count(folder: Path) -> Summary:
        assert go.wait(PATIENCE)
        return next(made)

    async def ask() -> list[Summary]:
        kept = StatusCounts(tmp_path, count)
        answers = [await kept.read()]
        go.clear()
        answers.append(await kept.read())
        monkeypatch.setattr(status, "OLDEST_SECONDS", 0)  # what is kept is too old now
        waiting = asyncio.create_task(kept.read())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        go.set()
        answers.append(await waiting)
        return [each.summary for each in answers]

    assert [id(each) for each in asyncio.run(ask())] == [id(first), id(first), id(second)]
