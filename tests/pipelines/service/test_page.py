"""The page in a browser: it loads, follows, explains and recovers, for everybody, and shows text as text.

One browser, one Redis and one output serve all tests of this file.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pipelines.service.guards import LOCAL, Guards, Subject
from pipelines.service.live import STREAM, LiveReports
from pipelines.settings import Settings
from schemas.tables import AGGREGATIONS, FLEET, LAYOUT_VERSION, QUARANTINED, REPORTS
from tests.browser import MISSING, find_chromium, open_browser
from tests.patience import PATIENCE
from tests.pipelines.service.test_stream import publish
from tests.pipelines.summary.test_queries import store
from tests.servers import RedisServer
from tests.service import RunningService, make_service, run_service
from transforms.derived.data_quality import COUNTS
from transforms.derived.data_quality import TABLE as QUALITY
from transforms.derived.features import FEATURES
from transforms.derived.recommendations import RECOMMENDATIONS
from transforms.derived.trends import TRENDS
from transforms.redis.connection import Connection

playwright = pytest.importorskip("playwright.sync_api", reason="needs kpiflow[dev]")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, expect
else:
    expect = playwright.expect

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)
END = datetime(2025, 10, 20, 12, 30, tzinfo=UTC)
"""The output is one of the past: the page counts back from its newest report."""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m\u202e"
SHOWN = "<img src=x onerror=alert(1)><script>alert(2)</script>\\x1b[31m\\x202e"
CONSUMER = Subject("reader", "kpi-consumer", frozenset())
MONITORING = Subject("watcher", "monitoring", frozenset())
TYPES = 20
RATE = re.compile(r"[1-9]")


def make_reports() -> list[dict[str, Any]]:
    """80 reports of an agent; one of them an outlier, and hostile."""
    rows = []
    for number in range(80):
        at = END - timedelta(minutes=50 - number / 2)
        rows.append(
            {
                "report_id": f"{number:032x}",
                "task_id": f"task {number}",
                "agent_id": "agent",
                "recorded_at": at,
                "received_at": at,
                "latency_ms": 100.0 + number % 7,
                "accuracy": 0.9,
                "revision": 1,
            }
        )
    flagged = {"latency_low_fence": 90.0, "latency_high_fence": 118.5, "latency_q1": 101.0}
    flagged |= {"latency_q3": 106.0, "baseline_n": 79, "latency_baseline_state": "ready"}
    hostile = {"agent_id": HOSTILE, "error_details": json.dumps(HOSTILE)}
    rows[-1] |= flagged | hostile | {"latency_ms": 400.0, "is_latency_outlier": True}
    return rows


def make_recommendations() -> list[dict[str, Any]]:
    """Two that count, and one that has ended."""
    seen = {"measure": "memory", "tasks": 1000, "beyond": 250, "share": 0.25, "low": 0.2, "high": 0.31}
    about = {"rule": "raise_memory_quota", "subject_kind": "agent_type", "reason": "more than 5 % are large"}
    about |= {"parameter": "max_memory_mb", "evidence": json.dumps(seen | {"limit": 0.05})}
    hour = timedelta(hours=1)
    times = {"decided_at": END - hour, "since": END - hour}
    counts = {"subject": HOSTILE, "state": "new", "recommendation": f"raise it for {HOSTILE}"}
    counts |= {"confidence": 1.0, "expires_at": END + hour}
    ended = {"subject": "inference", "state": "ended", "outcome": "changed", "confidence": 0.99991}
    changed = {
        "metric": "latency_ms",
        "level": "agent",
        "agent_type": "x",
        "change": 0.5,
        "low": 0.25,
        "high": 0.8,
    }
    changed |= {"is_relative": True, "changed_at": "2025-10-20T11:20:00.000000Z"}
    slower = {"rule": "slower_agent", "subject_kind": "agent", "recommendation": "look at agent a"}
    slower |= {"evidence": json.dumps(changed), "subject": "a", "parameter": None, "confidence": 0.99}
    return [about | times | counts, about | times | counts | slower, about | times | ended]


def make_minutes() -> list[dict[str, Any]]:
    """An hour of windows of a minute of each type: the latency rises by half of it after 30 minutes."""
    first = make_reports()[-1]["recorded_at"].replace(second=0) - timedelta(minutes=59)
    window = {"granularity": "1m", "success_rate": 0.5}
    return [
        window
        | {"time_window_start": first + timedelta(minutes=minute), "target_agent_type": HOSTILE + "x" * kind}
        | {"task_count": 2, "avg_latency_ms": 150.0 if minute >= 30 else 100.0}
        for minute in range(60)
        for kind in range(TYPES)
    ]


def make_features() -> list[dict[str, Any]]:
    """The tasks of two experiments; the older one has a hostile name and one variant."""
    columns = ("report_id", "task_id", "agent_id", "recorded_at")
    found = []
    for number, row in enumerate(make_reports()):
        about = {"experiment": "routing", "variant": ("control", "treatment")[number % 2]}
        if number < 2:
            about = {"experiment": f"{HOSTILE}/..", "variant": "only"}
        found.append({name: row[name] for name in columns} | about)
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "tables"
    folder.mkdir()
    settings = Settings().row_settings() | {"file_minutes": 10}
    (folder / "_kpiflow.json").write_text(
        json.dumps({"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings})
    )
    store(folder, REPORTS, make_reports())
    rejected = {"source": "s", "message_id": "m1", "received_at": END, "payload": b"{}", "revision": 1}
    cause = {"reason": "schema", "rule": "type", "field": HOSTILE, "message": HOSTILE, "kind": "kpi_report"}
    store(folder, QUARANTINED, [rejected | cause])
    hour = END.replace(minute=0, second=0)
    window = {"granularity": "1h", "source": "s", "time_window_start": hour, "verdict": "missed"}
    thresholds = {
        f"{name}_threshold": 0.95 for name in ("completeness", "accuracy", "timeliness", "consistency")
    }
    counts = dict.fromkeys(COUNTS, 0) | {"received": 100, "incomplete": 10, "checked": 100}
    store(folder, QUALITY.table, [window | thresholds | counts])
    changed = {"kind": "change", "level": "agent_type", "target_agent_type": HOSTILE, "metric": "latency_ms"}
    changed |= {"verdict": "raised", "change": 0.25, "before": 1.0, "after": 1.25, "z": 9.1, "threshold": 6.2}
    changed |= {"time_window_start": END, "changed_at": END - timedelta(minutes=40)}
    slope = {"kind": "slope", "level": "agent", "agent_id": "agent", "metric": "latency_ms"}
    slope |= {"verdict": "rising", "slope": 0.1, "slope_low": 0.05, "slope_high": 0.15}
    store(folder, TRENDS, [changed, slope | {"time_window_start": END - timedelta(minutes=30)}])
    store(folder, RECOMMENDATIONS, make_recommendations())
    store(folder, FLEET, make_minutes())
    store(folder, AGGREGATIONS, [each | {"agent_id": "agent"} for each in make_minutes()[::TYPES]])
    store(folder, FEATURES, make_features())
    return folder


class House:
    """A service that can be stopped and started again on its port, and who asks it."""

    def __init__(self, output: Path, server: RedisServer) -> None:
        self._output, self._server = output, server
        self._running: Any = None
        self.port = 0
        self.subject = LOCAL

    def start(self) -> None:
        guards = Guards(identify=lambda _: self.subject)
        live = LiveReports(Connection(self._server.url))
        self._running = run_service(make_service(self._output, guards=guards, live=live), port=self.port)
        self.service: RunningService = self._running.__enter__()
        self.port = self.service.port
        end = time.monotonic() + PATIENCE
        while self.service.get("/readyz").status != 200:
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self) -> None:
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None


@pytest.fixture(scope="module")
def house(output: Path, server: RedisServer) -> Iterator[House]:
    house = House(output, server)
    house.start()
    yield house
    house.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the Redis, whose streams stay: the service of this file follows them."""
    with server.client() as client:
        yield client


@contextmanager
def visit(browser: "Browser", house: House, **options: Any) -> Iterator["Page"]:
    """The page in a window of its own. Nothing of it may fail, or reach another host."""
    context = browser.new_context(**options)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("request", lambda sent: problems.append(sent.url) if house.service.url not in sent.url else None)
    page.goto(house.service.url)
    page.problems = problems  # type: ignore[attr-defined]
    yield page
    with suppress(Exception):
        context.close()


def check(page: "Page", expected: str = "nothing") -> None:
    """Check that nothing failed but for what is expected."""
    problems: list[str] = page.problems  # type: ignore[attr-defined]
    assert [each for each in problems if expected not in each] == []


def test_it_shows_every_section_and_follows_what_comes(
    browser: "Browser", house: House, client: redis.Redis, output: Path
) -> None:
    with visit(browser, house) as page:
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#output")).to_have_text("tables")
        expect(page.locator("#fates tr", has_text="reports")).to_contain_text("80")
        expect(page.locator("#fates tr.total")).to_contain_text("81")
        expect(page.locator("#quality .score.missed")).to_contain_text("90.0 %")
        expect(page.locator("#outliers .filters small")).to_have_text(
            "up to the newest report, 2025-10-20 12:19"
        )
        expect(page.locator("#trends .span").first).to_contain_text("In the 24 hours up to the newest report")
        expect(page.locator("#trends .changes li")).to_contain_text(f"of the type {SHOWN} raised by 25.0 %")
        slower = page.locator("#recommendations li", has_text="look at agent a")
        expect(slower).to_contain_text("latency_ms changed by 50.0 % (25.0 % to 80.0 %) at 2025-10-20 11:20")
        advice = page.locator("#recommendations li", has_text="raise it")
        expect(advice).to_contain_text(f"raise it for {SHOWN}")
        expect(advice).to_contain_text("250 of 1,000 tasks, 25.0 % (20.0 % to 31.0 %); the limit is 5.0 %")
        expect(advice).to_contain_text("Confidence over 99.9999 %; since 2025-10-20 11:30")
        page.locator("#recommendations summary").click()
        expect(page.locator("#recommendations .past li")).to_contain_text("max_memory_mb was changed")
        expect(page.locator("#quarantine .facts")).to_have_text("1 message open, of 1 cause.")
        expect(page.locator("#rates .big b")).to_have_text("0.0")
        publish(client, 0, 25)
        expect(page.locator("#rates .big b")).to_have_text(re.compile(r"2\.\d"))
        at = END - timedelta(minutes=70)  # a file of its own
        late = make_reports()[0] | {"report_id": "f" * 32, "recorded_at": at, "received_at": at}
        store(output, REPORTS, [late])
        expect(page.locator("#fates tr", has_text="reports")).to_contain_text("+1", timeout=1000 * PATIENCE)
        check(page)


def test_an_outlier_explains_itself_and_hostile_text_is_text(browser: "Browser", house: House) -> None:
    with visit(browser, house) as page:
        row = page.locator("#outliers .row")
        expect(row).to_contain_text("400 ms, above the fence of 119 ms")
        row.click()
        words = page.locator("#outliers .words")
        expect(words).to_contain_text("282 ms above the high fence of 119 ms")
        expect(words).to_contain_text(
            "79 reports in the hour before, the middle half lay between 101 ms and 106"
        )
        expect(page.locator("#outliers figure.over-time")).to_be_visible()
        page.locator(".report summary").click()
        expect(page.locator(".report dl")).to_contain_text(SHOWN.replace("\\", "\\\\")[:20])
        page.locator("#quarantine summary").click()
        expect(page.locator("#quarantine .said")).to_have_text(SHOWN)
        expect(page.locator("#quarantine code").first).to_contain_text(
            "kpiflow quarantine show tables --reason schema --kind kpi_report"
        )
        assert page.locator("main img, main script").count() == 0
        check(page)


def test_the_newest_hour_has_all_its_minutes_whatever_number_of_types_there_is(
    browser: "Browser", house: House
) -> None:
    with visit(browser, house) as page:
        facts = page.locator("#rates .minutes .facts")
        expect(facts).to_have_text(
            f"{60 * TYPES * 2:,} reports, 50.0 % succeeded; one took 125 ms on average."
        )
        check(page)


def test_a_change_of_level_shows_its_minutes(browser: "Browser", house: House) -> None:
    with visit(browser, house) as page:
        page.locator("#trends summary").click()
        plot = page.get_by_role("img", name=re.compile("Latency of 60 minutes .* between 100 ms and 150 ms"))
        expect(plot).to_be_visible()
        assert plot.locator(".dot").count() == 60
        expect(page.locator("#trends .slopes li")).to_contain_text("of agent agent rising by 10.0 % an hour")
        expect(page.locator("#trends .slopes li")).to_contain_text("95 % interval 5.0 % to 15.0 %")
        check(page)


def test_an_experiment_is_chosen_and_its_verdicts_are_said(browser: "Browser", house: House) -> None:
    with visit(browser, house) as page:
        section = page.locator("#comparisons")
        expect(section.locator(".effects li")).to_have_count(5, timeout=1000 * PATIENCE)
        expect(section.locator("h3")).to_have_text("treatment 39 beside 39 of control")
        expect(section.locator(".effects li").first).to_contain_text("Latency no conclusion")
        expect(section.locator(".effects li").first).to_contain_text(
            "blocks of 5 minutes with tasks of both; 20 are needed"
        )
        expect(section.get_by_role("status").first).to_contain_text("Tasks were assigned: 39 to control")
        section.get_by_label("Compared with").select_option("treatment")
        expect(section.locator("h3")).to_have_text("control 39 beside 39 of treatment")
        section.get_by_label("Experiment").select_option(f"{SHOWN}/..")
        expect(section.locator(".error")).to_contain_text("400: all tasks have the variant only")
        expect(section.locator(".effects li")).to_have_count(0)
        check(page, "400 (Bad Request)")


def test_a_verdict_has_its_interval_as_a_picture(browser: "Browser", house: House) -> None:
    answer = {"control": "control", "unit": "task", "assigned": True, "alpha": 0.05, "reason": None}
    answer["units"] = {"control": 100, "treatment": 99}
    effect = {"variant": "treatment", "metric": "latency_ms", "control": 320.0, "value": 290.0, "reason": ""}
    effect |= {"difference": -30.0, "low": -45.5, "high": -14.5, "p": 0.0002, "verdict": "lower"}
    answer["effects"] = [effect | {"since": "2025-10-20T12:05:00Z"}]
    with visit(browser, house) as page:
        page.route("**/kpi/compare?*", lambda route: route.fulfill(json=answer))
        page.reload()
        item = page.locator("#comparisons .effects li")
        expect(item).to_contain_text("Latency lower, better since 2025-10-20 12:05")
        expect(item).to_contain_text(
            "320 ms → 290 ms; difference \u221230 ms (\u221245.5 ms to \u221214.5 ms)"
        )
        expect(item).to_contain_text("p below 0.001")
        box, tick = item.locator("rect").bounding_box(), item.locator("line.fence").bounding_box()
        assert box["x"] + box["width"] < tick["x"]  # all of the interval is below 0


def test_a_list_that_is_not_whole_says_so(browser: "Browser", house: House) -> None:
    cause = {"kind": "task", "reason": "schema", "rule": "type", "messages": 1, "received_at": None}
    cause |= {"source": "s", "message_id": "m", "message": "", "fields": None}
    pages: list[str] = []

    def answer(route: Any) -> None:
        pages.append(route.request.url)
        route.fulfill(json={"rows": [cause] * 1000, "is_cut": True, "cursor": "more"})

    with visit(browser, house) as page:
        page.route("**/query/quarantine-causes?*", answer)
        page.reload()
        section = page.locator("#quarantine")
        expect(section).to_contain_text("These are the 2,000 most frequent causes.")
        expect(section.locator(".facts").first).to_have_text("2,000 messages open, of 2,000 causes.")
        assert [("cursor=more" in url) for url in pages[:2]] == [False, True]


def test_a_mark_is_kept(browser: "Browser", house: House) -> None:
    with visit(browser, house) as page:
        page.locator("#outliers .row").click()
        page.get_by_label("Note").fill(HOSTILE)
        page.get_by_role("button", name="False", exact=True).click()
        expect(page.locator(".marks .kept")).to_have_text("Kept")
        page.get_by_role("button", name="Verified", exact=True).click()
        expect(page.locator(".mark-state")).to_have_text("verified")
        page.reload()
        expect(page.locator(".mark-state")).to_have_text("verified")
        page.locator("#outliers .row").click()
        for name, is_pressed in (("Verified", "true"), ("False", "false")):
            button = page.get_by_role("button", name=name, exact=True)
            expect(button).to_have_attribute("aria-pressed", is_pressed)
        check(page)
    marks = house.service.get("/query/marks", state="all").json["rows"]
    assert [(row["verdict"], row["note"]) for row in marks] == [("verified", HOSTILE), ("false", HOSTILE)]


def test_it_goes_on_after_a_restart_and_says_what_it_missed(
    browser: "Browser", house: House, client: redis.Redis
) -> None:
    publish(client, 100, 3)
    with visit(browser, house) as page:
        state = page.locator("#connection")
        expect(state).to_have_text("live")
        house.stop()
        expect(state).to_contain_text("again in")
        publish(client, 200, 40)
        house.start()
        expect(state).to_have_text("live", timeout=1000 * PATIENCE)
        expect(page.locator("#rates .rates svg").first).to_have_attribute(
            "aria-label", re.compile(r"at most ([2-9]\d|\d{3})$")
        )
        assert page.locator(".notice").count() == 0  # the entries were still there
        house.stop()
        expect(state).to_contain_text("again in")
        publish(client, 300, 10)
        client.xtrim(STREAM, maxlen=2, approximate=False)
        house.start()
        expect(page.locator(".notice")).to_contain_text("Redis no longer has them", timeout=1000 * PATIENCE)
        page.locator(".notice button").click()
        expect(page.locator(".notice")).to_have_count(0)


def test_columns_without_right_are_named(browser: "Browser", house: House) -> None:
    house.subject = CONSUMER
    try:
        with visit(browser, house) as page:
            expect(page.locator("#quarantine .withheld")).to_contain_text(
                "You have no right to fields, message"
            )
            expect(page.locator("#rates .withheld")).to_contain_text("error_details")
            page.locator("#outliers .row").click()
            expect(page.locator("#outliers > div .withheld")).to_contain_text("You have no right to mark")
            assert page.locator(".mark").count() == 0
            page.locator(".report summary").click()
            expect(page.locator(".report .withheld")).to_contain_text("error_details")
            refused = page.locator("#recommendations .error")
            expect(refused).to_contain_text("403: reader has no right to recommendations")
            expect(page.locator("#recommendations details")).to_be_hidden()
            check(page, "403 (Forbidden)")
    finally:
        house.subject = LOCAL


def test_a_refusal_is_shown_in_the_words_of_the_service(browser: "Browser", house: House) -> None:
    house.subject = MONITORING
    try:
        with visit(browser, house) as page:
            for section in (
                "rates",
                "fates",
                "outliers",
                "trends",
                "comparisons",
                "recommendations",
                "quality",
                "quarantine",
            ):
                expect(page.locator(f"#{section} .error").first).to_contain_text("403: ")
            house.subject = replace(LOCAL, role="")
            expect(page.locator("#fates .error")).to_contain_text("has no role", timeout=1000 * PATIENCE)
    finally:
        house.subject = LOCAL


def test_colours_follow_the_system_and_a_choice_is_kept(browser: "Browser", house: House) -> None:
    def read_ground(page: "Page") -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    with visit(browser, house, color_scheme="dark") as page:
        assert read_ground(page) == "rgb(20, 24, 29)"
        page.locator("#theme").click()
        assert read_ground(page) == "rgb(251, 251, 250)"
        page.reload()
        assert read_ground(page) == "rgb(251, 251, 250)"
        expect(page.locator("#theme")).to_have_attribute("aria-label", "Colours: light. Change")
        check(page)


def test_everything_is_reached_by_the_keyboard(browser: "Browser", house: House) -> None:
    with visit(browser, house) as page:
        expect(page.locator("#outliers .row")).to_be_visible()
        expect(page.locator("#quarantine summary")).to_be_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen = []
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
            if seen[-1] == "row":
                page.keyboard.press("Enter")
                expect(page.locator(".row")).to_have_attribute("aria-expanded", "true")
        assert {"row", "mark verified", "mark false", "SUMMARY"} <= set(seen)
        check(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_out(browser: "Browser", house: House, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs kpiflow[dev]")
    with visit(browser, house, color_scheme=scheme, viewport={"width": 400, "height": 900}) as page:
        page.locator("#outliers .row").click()
        page.locator("#quarantine summary").click()
        page.locator("#recommendations summary").click()
        expect(page.locator("#recommendations .past li")).to_be_visible()
        expect(page.locator("figure.over-time")).to_be_visible()
        expect(page.locator("#fates table")).to_be_visible()
        found = axe.Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") == 400
