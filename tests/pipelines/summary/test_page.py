"""The page needs nothing else, is well formed whatever the data are, and its charts show the numbers."""

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.summary.charts import FATES, FLAGGED, IN_THE_DARK, PERCENTILES
from pipelines.summary.page import render_page
from pipelines.summary.quality import BrokenRule, Quality, Score, SourceQuality
from pipelines.summary.summary import Agent, HourCounts, LatencySummary, Outlier, Reason, Summary
from schemas.tables import METRICS
from tests.patience import PATIENCE

pytestmark = pytest.mark.threads  # charts are drawn by a library with threads

EIGHT = datetime(2025, 11, 22, 8, tzinfo=UTC)
POLICY = (
    """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
)
HOSTILE = "<script src=http://evil>\x1b[31m\x00\n\ufffe\u202e'\"&</style></svg><b onclick=x>"


def an_hour(after: int, reports: int = 100, latency: bool = True) -> HourCounts:
    """Hour `after` hours past eight, with an outlier of every metric."""
    percentiles = LatencySummary(120.0, 300.0, 450.0 + after, agents=2) if latency else None
    return HourCounts(
        EIGHT + timedelta(hours=after), reports, 3, 4, 5, dict.fromkeys(METRICS, 1), percentiles
    )


def a_quality(text: str) -> Quality:
    """A source that misses its first score, and a rule that is open."""
    names = ("completeness", "accuracy", "timeliness", "consistency")
    scores = tuple(Score(name, 90 + place, 100, 0.91) for place, name in enumerate(names))
    source = SourceQuality(text, None, 100, scores)
    return Quality((source,), (), (BrokenRule(text, "error", 5, 2), BrokenRule("resolved", "error", 3, 3)))


def a_summary(hours: tuple[HourCounts, ...], text: str = "plain") -> Summary:
    """A summary of `hours` whose every text is `text`."""
    example = Outlier("latency", text, text, EIGHT, 8123.0, -258.0, 812.0, 201.0, 354.0, 61)
    return Summary(
        output=text,
        reports=sum(hour.reports for hour in hours),
        failed=3 * len(hours),
        duplicates=4 * len(hours),
        quarantined=5 * len(hours),
        agents=2,
        first=EIGHT,
        last=EIGHT,
        hours=hours,
        outliers=dict.fromkeys(METRICS, len(hours)),
        examples=(example,),
        worst_agents=(Agent(text, 9, 1, dict.fromkeys(METRICS, 1)),),
        reasons=(Reason(text, 5, text, text, text),),
        quality=a_quality(text),
    )


class Reading(HTMLParser):
    """What a browser would see: tags in order, attributes, texts; raises where a tag is not closed as it was
    opened.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


HOURS = (an_hour(0), an_hour(1), an_hour(2))


@pytest.fixture(scope="module")
def plain() -> str:
    return render_page(a_summary(HOURS))


@pytest.fixture(scope="module")
def hostile() -> str:
    return render_page(a_summary(HOURS, text=HOSTILE))


def test_the_page_is_well_formed_and_has_every_chart_and_table(plain: str) -> None:
    reading = Reading(plain)
    assert reading.open == []
    assert (reading.tags.count("svg"), reading.tags.count("table")) == (5, 6)


def test_the_page_needs_nothing_from_elsewhere(plain: str) -> None:
    reading = Reading(plain)
    assert {"script", "link", "img", "iframe", "image", "use"}.isdisjoint(reading.tags)
    assert {name for name, value in reading.attributes if "//" in value} == {"xmlns", "xmlns:xlink"}
    assert not re.search(r"@import|url\(", plain)


def test_the_page_forbids_scripts_and_loads() -> None:
    assert POLICY in render_page(a_summary(HOURS))


def test_hostile_text_stays_text(plain: str, hostile: str) -> None:
    before, after = Reading(plain), Reading(hostile)
    assert after.open == []
    assert after.tags == before.tags
    assert not [name for name, _ in after.attributes if name.startswith("on")]
    shown = "<script src=http://evil>\\x1b[31m\\x00\\n\\ufffe\\u202e'\"&</style></svg><b onclick=x>"
    assert after.cells.count(shown) == before.cells.count("plain") == 9
    assert not set(hostile) & set("\x1b\x00\ufffe\u202e")


def test_every_colour_of_the_charts_has_a_partner_in_the_dark(plain: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", plain, re.DOTALL))
    colours = set(re.findall(r'(?:fill|stroke)="(#\w+)"', drawn))
    assert {*FATES.values(), *PERCENTILES.values(), *FLAGGED.values()} <= colours <= set(IN_THE_DARK)


def test_no_two_elements_share_an_id(plain: str) -> None:
    ids = [value for name, value in Reading(plain).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_hours_are_listed_with_their_numbers(plain: str) -> None:
    row = ["2025-11-22 09:00", "100", "4", "5", "97.0 %", "120", "300", "451", "1", "1", "1", "1"]
    cells = Reading(plain).cells
    start = cells.index(row[0])
    assert cells[start : start + len(row)] == row


def test_quality_is_shown_with_the_rules_that_are_open(plain: str) -> None:
    cells = Reading(plain).cells
    start = cells.index("! 90.0 %") - 2
    assert cells[start : start + 6] == ["plain", "100", "! 90.0 %", "91.0 %", "92.0 %", "93.0 %"]
    assert cells[start + 6 : start + 11] == ["plain", "error", "5", "2", "3"]
    assert "resolved" not in cells


def test_without_derived_tables_the_page_has_no_quality() -> None:
    texts = Reading(render_page(replace(a_summary(HOURS), quality=None))).texts
    assert {"Quality by source", "Open inconsistencies by rule"}.isdisjoint(texts)


def line_pieces(html: str, colour: str) -> int:
    """Pieces of the lines that are drawn in `colour`."""
    return sum(path.count("M") for path in re.findall(rf'<path d="([^"]*)" stroke="{colour}"', html))


def test_a_line_breaks_where_hours_are_missing(plain: str) -> None:
    gap = render_page(a_summary((an_hour(0), an_hour(1), an_hour(5), an_hour(6))))
    assert (line_pieces(plain, PERCENTILES["p99"]), line_pieces(gap, PERCENTILES["p99"])) == (1, 2)


def test_a_picture_without_data_is_left_out() -> None:
    reading = Reading(render_page(a_summary((an_hour(0, reports=0, latency=False),))))
    assert {"Latency by hour, ms", "Success rate by hour"}.isdisjoint(reading.texts)
    assert {"Rates by hour", "Outliers by hour", "Quarantine by reason"} <= set(reading.texts)


def test_a_page_on_nothing_names_backfill() -> None:
    zeros = dict.fromkeys(METRICS, 0)
    html = render_page(Summary("out", 0, 0, 0, 0, 0, None, None, (), zeros, (), (), ()))
    assert Reading(html).open == []
    assert "kpiflow backfill --input FILE... --output out" in html


WIDE = """<script>
const root = document.documentElement;
const wide = [...document.querySelectorAll("body, .wide, td, th, dd, h1")].filter(
  each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display != "inline");
document.title = `${root.scrollWidth - root.clientWidth} ${wide.length}`;
</script>"""
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_each_cell_names_its_column_for_a_narrow_page(plain: str) -> None:
    assert plain.count("<td ") == plain.count(" data-name=") > 0
    assert 'data-name="example of the commonest cause"' in plain


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("text", ["3b6a71d8-f19e-4d86-984e-1b60f5026c4f", "x" * 300, "many words " * 60])
def test_everything_fits_the_page_whatever_its_width(tmp_path: Path, text: str, width: int) -> None:
    file = tmp_path / "page.html"
    measuring = render_page(a_summary(HOURS, text)).replace(POLICY, "").replace("</body>", f"{WIDE}</body>")
    file.write_text(measuring, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},2000",
        f"--user-data-dir={tmp_path}/browser",
    ]
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=PATIENCE
    )
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    assert title == "0 0"
