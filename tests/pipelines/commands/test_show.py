"""`kpiflow show` on the terminal, as JSON and as a page."""

import io
import json
import re
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from pipelines.cli import run
from pipelines.summary.queries import summarise
from pipelines.summary.summary import Agent, HourCounts, LatencySummary, Outlier, Reason, Summary
from pipelines.summary.terminal import EIGHTHS, Whisker, draw_sparkline, draw_summary
from schemas.tables import AGGREGATIONS, DUPLICATES, METRICS, QUARANTINED, REPORTS
from tests.pipelines.summary.test_queries import EIGHT, NINE, flagged, hourly, message, report, store
from transforms.sinks.parquet.maintenance_ledger import Ledger, put_ledger
from transforms.storage.local_folder import LocalFolder

AGENT = "3b6a71d8-f19e-4d86-984e-1b60f5026c4f"
NO_FLAGS = dict.fromkeys(METRICS, 0)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Four reports of two hours, one of them failed and one flagged; a duplicate, two quarantined messages,
    two percentiles.
    """
    out = tmp_path / "out"
    reports = [report(1, failed=True), report(2), report(3), flagged(4, NINE, 8123.0, agent_id=AGENT)]
    store(out, REPORTS, reports)
    store(out, DUPLICATES, [message(5)])
    store(
        out,
        QUARANTINED,
        [message(6, reason="json", message="no [red]JSON[/] \x1b[31m"), message(7, reason="stale")],
    )
    store(out, AGGREGATIONS, [hourly(EIGHT, "a", 100, 200, 400), hourly(NINE, AGENT, 150, 300, 600)])
    return out


def many_hours(count: int) -> Summary:
    """A wide summary: large numbers, long texts, `count` hours."""
    flags = dict.fromkeys(METRICS, 1_234_567)
    example = Outlier("memory", AGENT, AGENT, EIGHT, 123456.0, -258.0, 81234.0, 20112.0, 35412.0, 61)
    hour = (1_234_567, 30_000, 45_678, 123_456, flags, LatencySummary(120.4, 1300.0, 45000.0, 1000))
    return Summary(
        output="/data/output",
        reports=count * 1_234_567,
        failed=count * 30_000,
        duplicates=count * 45_678,
        quarantined=count * 123_456,
        agents=1000,
        first=EIGHT,
        last=EIGHT + timedelta(hours=count),
        hours=tuple(HourCounts(EIGHT + timedelta(hours=n), *hour) for n in range(count)),
        outliers=flags,
        examples=(example,),
        worst_agents=(Agent(AGENT, 123_456, 9, dict.fromkeys(METRICS, 1234)),),
        reasons=(
            Reason("duplicate_key", count * 123_456, "execution_context", "type", "a long message " * 40),
        ),
    )


def drawn(summary: Summary, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), soft_wrap=True, highlight=False)
    for part in draw_summary(summary, width):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_tells_what_came_in(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(output)]) == 0
    lines = [
        re.sub(r"\s+", " ", re.sub("[█▉▊▋▌▍▎▏●━┿┥]", " ", line)).strip()
        for line in capsys.readouterr().out.splitlines()
    ]
    told = [
        "2025-11-22 08:00 to 2025-11-22 09:00 UTC, 2 agents",
        "reports 4 57.1 %",
        "duplicates 1 14.3 %",
        "quarantined 2 28.6 %",
        "received 7 success rate 75.0 %",
        "json 1 50.0 % no [red]JSON[/] \\x1b[31m",
        "stale 1 50.0 %",
        "11-22 08:00 3 1 2 66.7 %",
        "11-22 09:00 1 0 0 100.0 %",
        "11-22 08:00 100 200 400 1",
        "11-22 09:00 150 300 600 1",
        "latency 1 25.0 % 8123 ms > high fence 812 ms (q1 201, q3 354, n 61)",
        f"{AGENT}, 11-22 09:00",
        f"{AGENT} 1 1 1 0 0 0",
    ]
    assert [line for line in told if line not in lines] == []


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_cut_or_wider_than_the_terminal(width: int) -> None:
    text = drawn(many_hours(30), width)
    assert max(cell_len(line) for line in text.splitlines()) <= min(width, 120)
    whole = [AGENT, "37,037,010", "1,234,567", "duplicate_key", "123456 MB > high fence 81234 MB", *METRICS]
    assert [part for part in whole if part not in text] == []


def test_of_many_hours_the_newest_are_rows_and_all_are_in_one_line() -> None:
    text = drawn(many_hours(30), 80)
    assert ("11-22 13:00" in text, "11-22 14:00" in text, "11-23 13:00" in text) == (False, True, True)
    (line,) = [line for line in text.splitlines() if line.startswith("all hours")]
    assert line.split()[2] == EIGHTHS[-1] * len(line.split()[2])


def test_json_has_every_number_and_the_derived_ones(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = (
        "received",
        "reports",
        "duplicates",
        "quarantined",
        "quarantined_share",
        "failed",
        "success_rate",
        "agents",
    )
    assert [told[name] for name in names] == [7, 4, 1, 2, 2 / 7, 1, 0.75, 2]
    assert (told["first"], told["last"]) == ("2025-11-22T08:00:00+00:00", "2025-11-22T09:00:00+00:00")
    assert told["hours"][0] == {
        "start": "2025-11-22T08:00:00+00:00",
        "reports": 3,
        "failed": 1,
        "duplicates": 1,
        "quarantined": 2,
        "outliers": NO_FLAGS,
        "latency": {"p50_ms": 100.0, "p95_ms": 200.0, "p99_ms": 400.0, "agents": 1},
        "success_rate": 2 / 3,
    }
    assert told["examples"][0]["explained"] == "latency 8123 ms > high fence 812 ms (q1 201, q3 354, n 61)"
    assert {reason["reason"]: reason["count"] for reason in told["reasons"]} == {"json": 1, "stale": 1}
    assert len(told["hours"]) == len(summarise(output).hours)


@pytest.mark.threads  # charts are drawn by a library with threads
def test_html_writes_a_page_beside_what_is_printed(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    assert run(["show", str(output), "--html", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"] == 4
    assert file.read_text().startswith("<!doctype html>")


def test_an_empty_folder_is_no_failure_and_names_backfill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(tmp_path)]) == 0
    assert f"kpiflow backfill --input FILE... --output {tmp_path}" in capsys.readouterr().out


def test_an_absent_folder_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tmp_path / "nowhere")]) == 2
    assert "kpiflow backfill" in capsys.readouterr().err


def test_what_a_newer_kpiflow_wrote_is_refused(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "_kpiflow.json").write_text('{"layout": 999, "schemas": {}, "settings": {}}')
    assert run(["show", str(output)]) == 2
    assert "newer kpiflow" in capsys.readouterr().err


def test_a_page_into_no_folder_is_wrong_use(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", str(output), "--html", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["altair", "jinja2", "vl_convert"])
def test_without_the_extra_html_names_it(
    output: Path, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("page", "charts"):
        monkeypatch.delitem(sys.modules, f"pipelines.summary.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(["show", str(output), "--html", "page.html"]) == 2
    assert "pip install 'kpiflow[html]'" in capsys.readouterr().err


def at(places: list[int], reports: list[int]) -> list[HourCounts]:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return [
        HourCounts(start + timedelta(hours=h), n, 0, 0, 0, NO_FLAGS, None) for h, n in zip(places, reports)
    ]


def test_a_sparkline_is_blank_where_nothing_came() -> None:
    assert draw_sparkline(at([0, 1, 4], [8, 4, 1]), 10) == "█▅  ▂"


def test_a_narrow_sparkline_shows_mean_rates() -> None:
    assert draw_sparkline(at([0, 1, 2, 3, 4], [1, 1, 1, 1, 1]), 2) == "██"


@given(st.sets(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 80))
def test_a_sparkline_has_a_cell_an_hour_as_long_as_they_fit(places: set[int], width: int) -> None:
    span = max(places) - min(places) + 1
    line = draw_sparkline(at(sorted(places), [1] * len(places)), width)
    assert len(line) == min(width, span)
    assert line[0] != " " != line[-1]


@given(st.lists(st.floats(0, 3e5), min_size=3, max_size=3), st.floats(0, 3e5), st.integers(4, 90))
def test_a_whisker_has_its_marks_in_order_inside_its_cell(
    values: list[float], spare: float, width: int
) -> None:
    p50, p95, p99 = sorted(values)
    console = Console(width=width, file=io.StringIO())
    console.print(Whisker(LatencySummary(p50, p95, p99, 1), min(p50, spare), max(p99, spare)))
    line = console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]
    assert len(line) <= width
    assert line.lstrip(" ")[0] == "●"
    assert re.fullmatch(r" *●━*┿?━*┥?", line)


def test_a_whisker_is_to_scale() -> None:
    console = Console(width=31, file=io.StringIO())
    console.print(Whisker(LatencySummary(10.0, 100.0, 1000.0, 1), 10.0, 10.0**4))
    assert console.file.getvalue() == "●" + "━" * 9 + "┿" + "━" * 9 + "┥\n"  # type: ignore[attr-defined]


def test_an_output_whose_reports_have_expired_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger().expire(REPORTS.name, date(2026, 1, 2), frozenset(), datetime(2026, 3, 1, tzinfo=UTC))
    put_ledger(LocalFolder(tmp_path), ledger, None)
    assert run(["show", str(tmp_path)]) == 0
    assert "reports before 2026-01-02 have expired" in " ".join(capsys.readouterr().out.split())
