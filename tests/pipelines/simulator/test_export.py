"""The export of the simulator: its shape, its pages, its faults."""

import http.client
import itertools
import json
import re
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from pipelines.rate_limit import RateLimit
from pipelines.simulator.export import choose_content
from pipelines.simulator.faults import Faults
from pipelines.simulator.pages import PageRequest
from pipelines.simulator.reports import ArchivedReports
from tests.layer4 import RunningLayer4, run_layer4
from tests.patience import PATIENCE


def get(layer4: RunningLayer4, query: str = "") -> Any:
    with urlopen(f"{layer4.export}{query}", timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.load(answer)


def read_all(layer4: RunningLayer4, per_page: int) -> list[Any]:
    pages = (get(layer4, f"?page={page}&per_page={per_page}")["kpi_reports"] for page in itertools.count(1))
    return list(itertools.chain.from_iterable(itertools.takewhile(bool, pages)))


def test_the_body_has_the_shape_of_the_requirements() -> None:
    with run_layer4(history=250) as layer4:
        body = get(layer4)
    assert list(body) == ["timestamp", "kpi_reports", "pagination"]
    assert re.fullmatch(r"2025-10-22T19:00:\d\dZ", body["timestamp"])
    assert body["pagination"] == {"page": 1, "per_page": 100, "total_pages": 3, "total_count": 250}
    assert len(body["kpi_reports"]) == 100
    assert {"task_id", "agent_id", "latency_ms", "accuracy", "recorded_at"} <= set(body["kpi_reports"][0])


def test_all_pages_together_are_what_was_offered_oldest_first() -> None:
    with run_layer4(history=2345) as layer4:
        offered = [json.loads(report) for report in layer4.offered()]
        assert len(offered) == 2345
        assert read_all(layer4, 1000) == offered
        assert read_all(layer4, 700) == offered


def test_a_page_behind_the_last_is_empty() -> None:
    with run_layer4(history=5) as layer4:
        body = get(layer4, "?page=9&per_page=5")
    assert body["kpi_reports"] == []
    assert body["pagination"] == {"page": 9, "per_page": 5, "total_pages": 1, "total_count": 5}


def test_reports_that_are_no_longer_kept_move_the_pages() -> None:
    with run_layer4(history=3000, keep=1500) as layer4:
        body = get(layer4, "?per_page=1000")
        assert body["kpi_reports"] == [json.loads(report) for report in layer4.offered()[1500:2500]]
    assert body["pagination"]["total_count"] == 1500


@pytest.mark.parametrize("query", ["?page=0", "?page=x", "?per_page=1001", "?per_page=-1", "?page=1e3"])
def test_a_page_that_cannot_be_is_refused(query: str) -> None:
    with run_layer4(history=5) as layer4, pytest.raises(HTTPError) as refused:
        get(layer4, query)
    assert refused.value.code == 400


def test_archived_reports_are_offered_as_they_are_except_what_no_page_can_hold() -> None:
    payloads = [b'{"a": 1}\n', b"no JSON\n", b"[1]\n", b'{\n "a": 2\n}\n']
    with run_layer4(history=9, reports=ArchivedReports(payloads)) as layer4:
        assert layer4.offered() == [b'{"a": 1}', b'{  "a": 2 }']
        assert get(layer4)["kpi_reports"] == [{"a": 1}, {"a": 2}]


def test_archived_reports_are_read_by_block() -> None:
    reports = ArchivedReports(b'{"a":%d}\n' % number for number in range(2500))
    assert [len(reports.make_block(number)) for number in range(4)] == [1000, 1000, 500, 0]
    assert reports.make_block(2)[0] == b'{"a":2000}'


def test_the_record_holds_all_that_was_offered(tmp_path: Path) -> None:
    with run_layer4(history=1500, rate=60_000, speed=2.0, record=tmp_path / "record") as layer4:
        total = 0
        while total < 1600:
            total = get(layer4)["pagination"]["total_count"]
            assert (tmp_path / "record").read_bytes().count(b"\n") >= total
        offered = layer4.offered()
    assert (tmp_path / "record").read_bytes().splitlines()[: len(offered)] == offered


def test_a_fault_answers_429_with_the_time_to_wait_or_500() -> None:
    for name in ("429", "500"):
        with run_layer4(history=5, faults=f"{name}=1") as layer4, pytest.raises(HTTPError) as failed:
            get(layer4)
        assert failed.value.code == int(name)
        assert failed.value.headers["Retry-After"] == ("1" if name == "429" else None)


def test_a_timeout_is_a_request_without_an_answer() -> None:
    with run_layer4(history=5, faults="timeout=1") as layer4, pytest.raises(TimeoutError):
        urlopen(layer4.export, timeout=0.2)


def test_a_cut_body_is_half_of_what_was_announced() -> None:
    with run_layer4(history=500, faults="cut=1") as layer4, pytest.raises(http.client.IncompleteRead) as cut:
        get(layer4)
    assert cut.value.expected is not None
    assert abs(len(cut.value.partial) - cut.value.expected) <= 1


def test_a_short_page_says_the_right_count() -> None:
    found = choose_content(PageRequest(2, 100), range(50, 1000), "short", 0.25)
    assert (found.found, found.total, found.pages) == (range(150, 175), 950, None)


def test_a_repeated_page_has_the_reports_of_the_page_before() -> None:
    kept = range(50, 1000)
    assert choose_content(PageRequest(3, 100), kept, "repeated", 0.5).found == range(150, 250)
    assert choose_content(PageRequest(1, 100), kept, "repeated", 0.5).found == range(50, 150)


def test_a_false_last_page_says_that_no_other_follows() -> None:
    found = choose_content(PageRequest(2, 100), range(1000), "false-last", 0.999)
    assert (found.found, found.total, found.pages) == (range(100, 199), 199, 2)
    assert choose_content(PageRequest(2, 100), range(1000), "false-last", 0.0).found == range(100, 100)


def test_a_changed_count_is_another_one() -> None:
    for size in (0.0, 0.5, 0.99):
        content = choose_content(PageRequest(2, 100), range(1000), "count", size)
        assert content.total != 1000
        assert content.found == range(100, 200)


def test_equal_seeds_give_equal_requests_a_fault() -> None:
    text = "429=0.1,cut=0.2,short=0.1,drop=0.01"

    def list_faults(seed: int) -> list[Any]:
        faults = Faults.parse(text, seed)
        return [(faults.choose(number), faults.has_at("drop", number)) for number in range(2000)]

    assert list_faults(1) == list_faults(1)
    assert list_faults(1) != list_faults(2)
    names = [name for (name, _), _ in list_faults(1)]
    assert [round(names.count(name) / 200) for name in ("429", "cut", "short", "500")] == [1, 2, 1, 0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("slow=1", "no fault is called slow"),
        ("429", "are not written like"),
        ("429=2", "is not a share"),
        ("429=0.6,500=0.6", "add up to more than 1"),
    ],
)
def test_faults_that_cannot_be_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Faults.parse(text)


def test_a_consumer_gets_a_thousand_answers_a_minute() -> None:
    now = 100.0
    limit = RateLimit(lambda: now)
    assert {limit.admit("a") for _ in range(1000)} == {0}
    now = 130.5
    assert limit.admit("a") == 30
    assert limit.admit("b") == 0
    now = 160.0
    assert limit.admit("a") == 0
