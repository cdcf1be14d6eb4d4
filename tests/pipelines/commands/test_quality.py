"""`kpiflow quality`: scores against thresholds, hours, broken rules, exit codes."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import run
from pipelines.settings import Settings
from pipelines.summary.quality import read_quality
from schemas.tables import LAYOUT_VERSION, REPORTS
from tests.pipelines.summary.test_queries import EIGHT, NINE, report, store
from transforms.core.time_range import Span
from transforms.derived.data_quality import COUNTS, SCORES
from transforms.derived.data_quality import TABLE as QUALITY
from transforms.derived.inconsistencies import TABLE as INCONSISTENCIES
from transforms.derived.resolutions import TABLE as RESOLUTIONS

THRESHOLDS = {f"{name}_threshold": value for name, value in zip(SCORES, (0.98, 0.95, 0.99, 0.99))}


def window(source: str, start: datetime | None, granularity: str = "1m", **counts: int) -> dict[str, Any]:
    """A row of data_quality; counts that are not named are 0."""
    row = {"source": source, "granularity": granularity, "time_window_start": start, "verdict": "met"}
    return row | dict.fromkeys(COUNTS, 0) | counts | THRESHOLDS


def broken(number: int, rule: str, severity: str = "error", at: datetime = EIGHT) -> dict[str, Any]:
    """A row of inconsistencies."""
    names = {"report_id": f"{number:032x}", "task_id": f"task {number}", "agent_id": "agent"}
    evidence = json.dumps({"number": number, "since": "2025"})
    return names | {"rule": rule, "severity": severity, "recorded_at": at, "evidence": evidence}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two sources. The second misses completeness from nine o'clock on and over both hours."""
    settings = Settings().row_settings()
    description = {"layout": LAYOUT_VERSION, "schemas": {}, "settings": settings}
    (tmp_path / "_kpiflow.json").write_text(json.dumps(description))
    rows = []
    for minute in (EIGHT, EIGHT + timedelta(minutes=59), NINE):
        rows.append(window("a", minute, received=10, checked=10, timed=10, timely=10))
        rows.append(window("b", minute, received=10, incomplete=int(minute == NINE), checked=9))
    hours = [
        window("a", EIGHT, "1h", received=20, checked=20, timed=20, timely=20),
        window("a", NINE, "1h", received=10, checked=10, timed=10, timely=10),
        window("b", EIGHT, "1h", received=20, checked=18),
        window("b", NINE, "1h", received=10, incomplete=1, checked=9),
    ]
    store(tmp_path, QUALITY.table, rows + hours)
    store(
        tmp_path,
        INCONSISTENCIES.table,
        [broken(1, "task_unknown"), broken(2, "task_unknown"), broken(3, "task_changed", "warning", NINE)],
    )
    by = json.dumps({"kind": "task", "id": "task 2", "version": "v"})
    resolution = {"resolved_at": NINE, "resolved_by": by}
    store(tmp_path, RESOLUTIONS.table, [broken(2, "task_unknown") | resolution])
    return tmp_path


def test_a_score_below_its_threshold_is_named_and_gives_exit_code_1(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quality", str(output)]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"kpiflow: {output} is below completeness of b\n"
    assert "! 96.6 %" in printed.out
    assert f"{NINE:%Y-%m-%d} 09:00  b       completeness 90.0 %" in printed.out


def test_a_span_counts_only_what_was_received_in_it(output: Path) -> None:
    assert run(["quality", str(output), "--to", NINE.isoformat()]) == 0
    found = read_quality(output, Span(EIGHT + timedelta(minutes=1), NINE))
    assert found is not None
    assert [(each.source, each.received) for each in found.sources] == [("a", 10), ("b", 10)]
    assert [rule.rule for rule in found.rules] == []


def test_minutes_and_hours_have_the_same_sums(output: Path) -> None:
    by_hour, by_minute = read_quality(output, Span()), read_quality(output, Span(EIGHT))
    assert by_hour == by_minute


def test_json_has_every_hour_and_the_rules_that_are_still_broken(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quality", str(output), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["met"] is False
    assert len(found["hours"]) == 4
    score = found["sources"][1]["scores"]["completeness"]
    assert score == {"numerator": 29, "denominator": 30, "threshold": 0.98, "value": 29 / 30, "met": False}
    assert found["rules"] == [
        {"rule": "task_changed", "severity": "warning", "broken": 1, "resolved": 0, "open": 1},
        {"rule": "task_unknown", "severity": "error", "broken": 2, "resolved": 1, "open": 1},
    ]


def test_a_score_of_which_nothing_can_be_said_is_no_failure(output: Path) -> None:
    found = read_quality(output, Span())
    assert found is not None
    assert [score.value for score in found.sources[1].scores] == [29 / 30, 1.0, None, None]
    assert [score.name for each in found.missed for score in each.missed] == ["completeness"]


def test_messages_received_at_an_unknown_time_count_unless_a_span_is_given(output: Path) -> None:
    store(output, QUALITY.table, [window("a", None, "1h", received=5, incomplete=5)])
    whole, span = read_quality(output, Span()), read_quality(output, Span(EIGHT))
    assert whole is not None
    assert span is not None
    assert (whole.sources[0].received, span.sources[0].received) == (35, 30)
    assert [each.start for each in whole.hours if each.source == "a"] == [EIGHT, NINE, None]


@pytest.mark.parametrize("words", [[], ["--rule", "task_unknown"]])
def test_an_output_without_derived_tables_names_the_command_that_makes_them(
    output: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (output / QUALITY.table.name).rglob("*.parquet"):
        path.unlink()
    assert run(["quality", str(output), *words]) == 2
    assert f"no table data_quality\n  `kpiflow derive {output}` makes it" in capsys.readouterr().err


def test_hours_that_lack_most_messages_come_first(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = window("b", EIGHT - timedelta(hours=1), "1h", received=1, incomplete=1)
    large = window("b", NINE + timedelta(hours=1), "1h", received=100, incomplete=5)
    store(output, QUALITY.table, [tiny, large])
    run(["quality", str(output)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    hours = [line[-3:] for line in lines if line[2:4] == ["b", "completeness"]]
    assert hours == [["%", "100", "3"], ["%", "1", "1"], ["%", "10", "1"]]


def test_a_source_with_a_long_name_is_on_one_line_where_there_is_no_terminal(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(output, QUALITY.table, [window("a" * 70, EIGHT, "1h", received=1)])
    run(["quality", str(output)])
    assert "a" * 70 in capsys.readouterr().out


def test_many_sources_are_not_all_named_and_those_below_a_threshold_come_first(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [window(f"good {n:03}", EIGHT, "1h", received=1, checked=1) for n in range(60)]
    low = [window(f"low {n}", EIGHT, "1h", received=1, incomplete=1) for n in range(5)]
    store(output, QUALITY.table, [*good, *low])
    assert run(["quality", str(output)]) == 1
    printed = capsys.readouterr()
    first = [line.split() for line in printed.out.splitlines()[1:8]]
    assert [words[0] for words in first] == ["b", *["low"] * 5, "a"]
    assert "and 17 other sources" in printed.out
    assert "completeness of low 1, and of 3 other sources" in " ".join(printed.err.split())


def test_a_hostile_name_of_a_source_is_one_short_line(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(output, QUALITY.table, [window("\x1b[31m\n" + "x" * 5000, EIGHT, "1h", received=1, incomplete=1)])
    assert run(["quality", str(output)]) == 1
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert r"\x1b[31m\n" in printed.out
    assert len(printed.err) < 1000
    assert max(map(len, printed.out.splitlines())) < 1000


@pytest.mark.parametrize("command", ["quality", "show"])
def test_a_damaged_derived_file_is_removed_and_derived_again(
    output: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged, *_) = (output / QUALITY.table.name).rglob("*.parquet")
    damaged.write_bytes(b"no Parquet")
    assert run([command, str(output)]) in (1, 3)
    error = " ".join(capsys.readouterr().err.split())
    assert "remove it, then run `kpiflow derive`" in error
    assert "--replace" not in error


def test_the_newest_reports_that_break_a_rule_come_with_evidence_and_resolution(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(output, INCONSISTENCIES.table, [broken(4, "task_unknown", at=NINE)])
    found = read_json(["quality", str(output), "--rule", "task_unknown", "--json"], capsys)
    assert [found[name] for name in ("severity", "broken", "resolved", "open")] == ["error", 3, 1, 2]
    reports = found["reports"]
    assert [each["task_id"] for each in reports] == ["task 4", "task 1", "task 2"]
    assert reports[0]["evidence"] == {"number": 4, "since": "2025"}
    assert [each["resolved_at"] for each in reports] == [None, None, NINE.isoformat()]
    assert reports[2]["resolved_by"] == {"kind": "task", "id": "task 2", "version": "v"}

    assert run(["quality", str(output), "--rule", "task_unknown", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "task_unknown (error): no task with this id is known\n" in printed
    assert "3 broken, 1 resolved, 2 open; the newest 1:" in printed
    assert "evidence: number 4, since 2025\n  open" in printed
    assert "task 1" not in printed


def test_the_reports_of_a_rule_are_those_of_the_span(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quality", str(output), "--rule", "task_unknown", "--from", NINE.isoformat()]
    assert read_json([*words, "--json"], capsys)["reports"] == []
    assert run(words) == 0
    assert "no report of this span breaks it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fix"),
    [(["--rule", "no_rule"], "give one of task_unknown"), (["--limit", "2"], "add --rule NAME")],
)
def test_a_rule_that_does_not_exist_is_wrong_use(
    output: Path, words: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quality", str(output), *words]) == 2
    assert fix in capsys.readouterr().err


def test_show_has_the_scores_and_the_open_inconsistencies(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(output, REPORTS, [report(1), report(2), report(3)])
    assert run(["show", str(output)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "b 30 ! 96.6 % 100.0 % - -" in lines
    assert lines[lines.index("Open inconsistencies by rule") + 2 :][:2] == [
        "task_changed warning 1 0 1",
        "task_unknown error 2 1 1",
    ]
    shown = [read_json(["show", str(output), "--json"], capsys)["quality"]]
    assert shown == [read_json(["quality", str(output), "--json"], capsys)]


def read_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    run(words)
    return json.loads(capsys.readouterr().out)


def test_show_says_nothing_of_quality_without_derived_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, REPORTS, [report(1)])
    assert read_json(["show", str(tmp_path), "--json"], capsys)["quality"] is None
    assert run(["show", str(tmp_path)]) == 0
    assert "uality" not in capsys.readouterr().out


def test_show_names_a_damaged_derived_file(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (damaged, *_) = (output / QUALITY.table.name).rglob("*.parquet")
    damaged.write_bytes(b"no Parquet")
    assert run(["show", str(output)]) == 3
    assert str(damaged) in capsys.readouterr().err
