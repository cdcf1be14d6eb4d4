"""Generated records, read back by an independent reader: json, jsonschema, pandas and least squares."""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

import schemas
from pipelines.synthetic.records.effects import (
    COMPLEXITY,
    CORRELATION,
    EXPERIENCE,
    OUTLIER,
    PRIORITY,
    SLOPE,
    TREATMENT,
    WORKLOAD,
)
from pipelines.synthetic.records.faults import FAULTS
from tests.pipelines.synthetic.test_generated import (
    ENVELOPE,
    QuarantineError,
    contents,
    formats,
    generated,
    moment,
    parse,
)

SCHEMAS = {
    "layer4_kpi_reports": "kpi_report",
    "layer4_tasks": "task",
    "layer4_results": "execution_result",
    "layer4_agents": "agent",
    "layer4_health": "system_health",
}
RECENT = {"kpi_report": "recorded_at", "execution_result": "completed_at", "system_health": "recorded_at"}
WAIT, TOLERANCE = timedelta(seconds=60), timedelta(seconds=5)
formats.checks("base64", raises=ValueError)(
    lambda text: not isinstance(text, str) or bool(base64.b64decode(text, validate=True))
)
CLEAN = ["--dirty", "0", "--duplicates", "0", "--late", "0", "--outliers", "0", "--inconsistent", "0"]


def read(folder: Path) -> pd.DataFrame:
    """Every message: schema, received_at, message_id, content (None where it is refused) and reason."""
    rows = []
    for path in sorted(folder.glob("*.ndjson")):
        for line in path.read_text(encoding="utf-8").splitlines():
            _, head, _, source, rest = line.split('"', 4)
            assert head == "source"
            envelope = ENVELOPE.fullmatch("{" + rest[1:])
            assert envelope, line
            schema, received = SCHEMAS[source], moment(envelope[3] + "Z")
            payload = json.loads(envelope[4]) if envelope[4].startswith('"') else envelope[4]
            content, reason = judge(payload, received, schema, load_validator(schema))
            rows.append((path.name, schema, received, f"{envelope[1]}-{envelope[2]}", content, reason))
    return pd.DataFrame(rows, columns=["file", "schema", "received", "message_id", "content", "reason"])


@cache
def load_validator(schema: str) -> Draft202012Validator:
    text = Path(schemas.__file__).with_name(f"{schema}.v1.json").read_text()
    return Draft202012Validator(json.loads(text), format_checker=formats)


def judge(
    text: str, received: datetime, schema: str, validator: Draft202012Validator
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        content = parse(text)
    except QuarantineError as wrong:
        return None, str(wrong)
    if not validator.is_valid(content):
        return None, "schema"
    age = received - moment(content[RECENT[schema]]) if schema in RECENT else timedelta(0)
    reason = "stale" if age > timedelta(hours=1) else "future" if age < -timedelta(minutes=1) else None
    return (None, reason) if reason else (content, None)


def identify(row: Any) -> str:
    """What makes a valid record distinct."""
    content = dict(row.content)
    if row.schema == "system_health":
        return row.message_id
    if row.schema == "agent":
        del content["stats"]
        content["hour"] = f"{row.received:%Y-%m-%dT%H}"
    return json.dumps(content, sort_keys=True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pd.DataFrame]:
    """The truth and the messages of an archive with everything that can be wrong."""
    folder = tmp_path_factory.mktemp("mixed")
    options = ["--reports", "1600", "--agents", "9", "--span", "6h", "--seed", "4"]
    truth = generated(folder, "--records", *options, "--inconsistent", "0.3")
    return truth, read(folder)


def test_the_truth_counts_the_fates_of_records(mixed: tuple[dict[str, Any], pd.DataFrame]) -> None:
    truth, messages = mixed
    assert truth["files"] == Counter(messages["file"])
    assert messages.groupby("schema").size().to_dict() == truth["records"]["messages"]
    for schema, fates in truth["records"]["fates"].items():
        own = messages[messages["schema"] == schema]
        valid = own[own["content"].notna()]
        distinct = {identify(row) for row in valid.itertuples()}
        assert own["reason"].value_counts().to_dict() == fates["quarantined_by_reason"], schema
        assert (len(distinct), len(valid) - len(distinct)) == (fates["accepted"], fates["duplicates"]), schema
        assert fates["accepted"] == truth["records"]["accepted"][schema]


def test_messages_are_in_order_of_arrival_with_ids_that_are_unique_in_their_source(
    mixed: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    _, messages = mixed
    assert messages["received"].is_monotonic_increasing
    assert not messages.duplicated(["schema", "message_id"]).any()


def list_distinct(messages: pd.DataFrame) -> Iterator[Any]:
    """The first message of each valid record, in order of arrival."""
    seen = set()
    for row in messages[messages["content"].notna()].itertuples():
        identity = (row.schema, identify(row))
        if identity not in seen:
            seen.add(identity)
            yield row


def find_broken(messages: pd.DataFrame) -> dict[str, set[str]]:
    """The message ids of the reports that break each rule a minute after they are received."""
    rows = list(list_distinct(messages))
    by_id: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        by_id[row.schema, row.content.get("task_id") or row.content.get("id")].append(row)

    def find(schema: str, name: str, until: datetime) -> list[dict[str, Any]]:
        return [each.content for each in by_id[schema, name] if each.received <= until]

    broken: dict[str, set[str]] = {}
    for row in (row for row in rows if row.schema == "kpi_report"):
        report, task, until = row.content, row.content["task_id"], row.received + WAIT
        tasks, results = find("task", task, until), find("execution_result", task, until)
        agents = find("agent", report["agent_id"], until)
        others = [each for each in find("kpi_report", task, until) if each is not report]
        rules = {
            "task_unknown": not tasks,
            "agent_unknown": not agents,
            "task_claimed_twice": any(each["agent_id"] != report["agent_id"] for each in others),
            "task_reported_twice": any(each["agent_id"] == report["agent_id"] for each in others),
            "task_changed": len(tasks) > 1,
            "result_changed": len(results) > 1,
            **(check_task(report, tasks[-1]) if tasks else {}),
            **(check_result(report, results[-1]) if results else {}),
        }
        if tasks and agents:
            before = find("agent", report["agent_id"], row.received)[-1:]
            rules["agent_type_mismatch"] = all(
                tasks[-1]["target_agent_type"] not in (each["agent_type"], *each["capabilities"])
                for each in (agents[-1], *before)
            )
        for rule, is_broken in rules.items():
            if is_broken:
                broken.setdefault(rule, set()).add(row.message_id)
    return broken


def check_task(report: dict[str, Any], task: dict[str, Any]) -> dict[str, bool]:
    quota, seconds = task["resource_quota"], report["latency_ms"] / 1e3
    mbps = (report.get("network_bytes") or 0) * 8 / 1e6 / seconds
    return {
        "recorded_before_creation": moment(report["recorded_at"]) < moment(task["created_at"]) - TOLERANCE,
        "cpu_over_quota": report["cpu_usage"] * report["execution_context"]["available_cores"]
        > quota["max_cpu_cores"],
        "memory_over_quota": report["memory_mb"] > quota["max_memory_mb"],
        "time_over_quota": seconds > quota["max_execution_time_secs"],
        "network_over_quota": mbps > quota.get("max_network_mbps", np.inf),
    }


def check_result(report: dict[str, Any], result: dict[str, Any]) -> dict[str, bool]:
    failed = report.get("error_details") is not None
    return {
        "recorded_after_completion": moment(report["recorded_at"])
        > moment(result["completed_at"]) + TOLERANCE,
        "outcome_disagrees": result["success"] == failed,
    }


def test_each_rule_is_broken_where_the_truth_says_and_nowhere_else(
    mixed: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    truth, messages = mixed
    said = list_said(truth)
    assert find_broken(messages) == said
    assert set(truth["records"]["rules"]) == set(said)
    empty = {name for name, fault in truth["records"]["faults"].items() if not fault["count"]}
    assert empty <= {"agent_changed_type"}


def test_clocks_that_are_wrong_break_rules_about_times_where_the_truth_says(tmp_path: Path) -> None:
    options = ["--reports", "700", "--agents", "9", "--span", "3h", "--inconsistent", "0.2"]
    truth = generated(tmp_path, "--records", *options, "--clock-skew", "25")
    said = list_said(truth)
    faults = truth["records"]["faults"]
    assert find_broken(read(tmp_path)) == said
    assert min(faults[name]["count"] for name in ("clock_behind", "clock_ahead")) > 10


def list_said(truth: dict[str, Any]) -> dict[str, set[str]]:
    """The message ids of the reports that break each rule, as the truth has them."""
    said: dict[str, set[str]] = {}
    for name, fault in truth["records"]["faults"].items():
        ids = {report["message_id"] for report in fault["reports"]}
        assert len(ids) == fault["count"], name
        if fault["rule"]:
            said.setdefault(fault["rule"], set()).update(ids)
    return {rule: ids for rule, ids in said.items() if ids}


def test_late_records_come_when_the_truth_says_and_missing_ones_never(
    mixed: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    truth, messages = mixed
    valid = messages[messages["content"].notna()]
    first = {
        schema: {
            row.get("task_id") or row.get("id"): at
            for row, at in zip(own["content"][::-1], own["received"][::-1])
        }
        for schema, own in valid.groupby("schema")
    }
    reports = valid[valid["schema"] == "kpi_report"].set_index("message_id")
    faults = truth["records"]["faults"]
    for name, schema, key in (
        ("task_late", "task", "task_id"),
        ("result_late", "execution_result", "task_id"),
        ("agent_late", "agent", "agent_id"),
    ):
        for report in faults[name]["reports"]:
            at = first[schema][report[key]]
            assert at == moment(report["record_received_at"])
            assert at > reports["received"][report["message_id"]] + WAIT
    tasks = valid[valid["schema"] == "task"]
    newest = {row["id"]: (at, row) for row, at in zip(tasks["content"], tasks["received"])}
    for report in faults["quota_raised_late"]["reports"]:
        at, task = newest[report["task_id"]]
        assert at >= moment(report["record_received_at"]) > reports["received"][report["message_id"]] + WAIT
        assert not any(check_task(reports["content"][report["message_id"]], task).values())
    resolved = {
        "task_late": "task_unknown",
        "agent_late": "agent_unknown",
        "quota_raised_late": "cpu_over_quota",
    }
    assert truth["records"]["resolved"] == {rule: faults[name]["count"] for name, rule in resolved.items()}
    assert not {each["task_id"] for each in faults["task_never"]["reports"]} & first["task"].keys()
    assert (
        not {each["task_id"] for each in faults["result_never"]["reports"]} & first["execution_result"].keys()
    )
    assert not {each["agent_id"] for each in faults["agent_never"]["reports"]} & first["agent"].keys()


def test_a_report_says_of_its_task_what_the_task_says_or_nothing(
    mixed: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    _, messages = mixed
    valid = messages[messages["content"].notna()]
    tasks = {row["id"]: row for row in valid["content"][valid["schema"] == "task"]}
    said: Counter[tuple[str, bool]] = Counter()
    for report in valid["content"][valid["schema"] == "kpi_report"]:
        for name in ("priority", "source_layer", "target_agent_type"):
            if (task := tasks.get(report["task_id"])) and report.get(name) is not None:
                assert report[name] == task[name]
            said[name, report.get(name) is not None] += 1
    assert all(said[name, True] > said[name, False] > 0 for name, _ in said)


def read_reports(folder: Path) -> pd.DataFrame:
    """A row for each report of an archive without faults, with its task as columns, in order of time."""
    envelopes = [
        json.loads(line) for path in sorted(folder.glob("*.ndjson")) for line in path.read_text().splitlines()
    ]
    of = {
        name: pd.json_normalize([each["data"] for each in envelopes if SCHEMAS[each["source"]] == name])
        for name in ("kpi_report", "task")
    }
    joined = of["kpi_report"].merge(of["task"], left_on="task_id", right_on="id", suffixes=("", "_of_task"))
    joined["at"] = pd.to_datetime(joined["recorded_at"], format="ISO8601", utc=True)
    joined["payload_bytes"] = [
        len(json.dumps({"operation": operation, "text": text}, separators=(",", ":")))
        for operation, text in zip(joined["payload.operation"], joined["payload.text"])
    ]
    return joined.sort_values("at", ignore_index=True)


def fit(columns: dict[str, Any], target: pd.Series, agent: pd.Series) -> dict[str, tuple[float, float]]:
    """Least squares within agents: the coefficient of each column and its standard error."""
    both = pd.DataFrame({**columns, "target": target})
    both = both - both.groupby(agent).transform("mean")
    x, y = both[list(columns)].to_numpy(float), both["target"].to_numpy(float)
    coefficients, *_ = np.linalg.lstsq(x, y, rcond=None)
    rest = y - x @ coefficients
    errors = np.sqrt(
        np.diag(np.linalg.inv(x.T @ x)) * (rest @ rest) / (len(y) - x.shape[1] - agent.nunique())
    )
    return dict(zip(columns, zip(coefficients, errors)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pd.DataFrame]:
    """The effects and the reports of an archive in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("clean")
    truth = generated(folder, "--records", *CLEAN, "--reports", "24000", "--agents", "12", "--span", "24h")
    assert truth["records"]["rules"]["task_unknown"] == 0
    return truth["records"]["effects"], read_reports(folder)


def test_least_squares_recovers_the_effects_on_latency(clean: tuple[dict[str, Any], pd.DataFrame]) -> None:
    effects, reports = clean
    # Its latency depends on the time, too.
    reports = reports[reports["agent_id"] != effects["degrading"]["agent_id"]]
    seconds = reports["at"].astype("int64") / 1e9
    recent = pd.concat(
        [
            pd.Series(np.arange(len(own)) - np.searchsorted(own, own - 300), own.index)
            for _, own in seconds.groupby(reports["agent_id"])
        ]
    )
    agent = reports["agent_id"]
    usual = np.maximum(1, agent.map(agent.value_counts()) / 288)
    columns = {
        name: np.log2(reports[f"resource_quota.{name}"]) for name in effects["complexity"] if "max" in name
    }
    columns["payload_bytes"] = np.log2(reports["payload_bytes"])
    columns["priority"] = reports["priority_of_task"]
    columns["experience"] = np.log1p(reports.groupby("agent_id").cumcount())
    columns["workload"] = np.minimum(recent / usual, effects["workload"]["most"])
    columns["treatment"] = reports["metadata.variant"].eq("treatment") & reports["metadata.experiment"].eq(
        "routing"
    )
    columns["placebo"] = reports["metadata.variant"].eq("treatment") & reports["metadata.experiment"].eq(
        "cache"
    )
    found = fit(columns, np.log(reports["latency_ms"]), agent)
    planted = {
        name: each.get("log_latency_per_doubling", each.get("log_latency_per_unit"))
        for name, each in effects["complexity"].items()
    } | {
        "experience": effects["experience"]["log_latency_per_ln_tasks"],
        "workload": effects["workload"]["log_latency_per_unit"],
        "treatment": effects["experiments"]["routing"]["treatment"],
        "placebo": 0.0,
    }
    assert found.keys() == planted.keys()
    for name, (coefficient, error) in found.items():
        assert abs(coefficient - planted[name]) < 4 * error + 0.001, (name, coefficient, error)
        assert error < 0.01


def test_payload_size_alone_explains_little_of_what_a_task_costs(
    clean: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    _, reports = clean
    latency, size = np.log(reports["latency_ms"]), np.log2(reports["payload_bytes"])
    within = reports.groupby("agent_id")
    own = [values - values.groupby(reports["agent_id"]).transform("mean") for values in (latency, size)]
    assert 0.02 < np.corrcoef(*own)[0, 1] ** 2 < 0.15
    assert within.ngroups == 12


def test_one_agent_degrades_one_follows_its_resources_and_one_is_slow(
    clean: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    effects, reports = clean
    by_agent = dict(iter(reports.groupby("agent_id")))
    level = {each["agent_id"]: each["latency_ms"] for each in effects["agents"]}
    degrading = by_agent[effects["degrading"]["agent_id"]]
    start = moment(effects["degrading"]["from"])
    after = degrading[degrading["at"] >= start]
    minutes = (after["at"] - start).dt.total_seconds() / 60
    slope, base = np.polyfit(minutes, after["latency_ms"], 1)
    assert slope / base == pytest.approx(effects["degrading"]["share_per_minute"], rel=0.2)
    correlated = effects["correlated"]
    for name, own in by_agent.items():
        for metric in ("cpu_usage", "memory_mb"):
            rank = own["latency_ms"].rank().corr(own[metric].rank())
            planted = correlated["correlation"] if name == correlated["agent_id"] else 0
            assert rank == pytest.approx(planted, abs=0.08)
    medians = {name: own["latency_ms"].median() / level[name] for name, own in by_agent.items()}
    assert all(
        0.6 < ratio < 1.2 for name, ratio in medians.items() if name != effects["degrading"]["agent_id"]
    )
    outlier = effects["outlier"]["agent_id"]
    kinds = {each["agent_id"]: each["agent_type"] for each in effects["agents"]}
    others = [level[name] for name in level if kinds[name] == kinds[outlier] and name != outlier]
    assert level[outlier] > 1.4 * max(others)


def test_equal_seeds_give_equal_records(tmp_path: Path) -> None:
    options = ["--records", "--reports", "300", "--span", "2h", "--compress", "zst"]
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        generated(tmp_path / folder, *options, "--seed", seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_the_page_has_the_effects_and_the_faults() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/generated-records.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"
    ]
    faults = {
        row[0]: None if row[1] == "none" else row[1] for row in rows if len(row) == 3 and row[0] in FAULTS
    }
    assert list(faults.items()) == list(FAULTS.items())
    sizes = {row[0]: row[1] for row in rows}
    for name, (size, reference) in COMPLEXITY.items():
        assert sizes[name] == f"{size:g} for each doubling over {reference}"
    assert sizes["priority"] == f"{PRIORITY[0]} for each unit over {PRIORITY[1]}"
    assert sizes["experience"].startswith(f"{EXPERIENCE} for")
    assert sizes["workload"].startswith(f"{WORKLOAD} for")
    assert str(TREATMENT) in sizes.values()
    assert f"{OUTLIER:g} times" in page
    assert f"{SLOPE:.0%}".replace("%", " %") in page
    assert f"a correlation of {CORRELATION}" in page
