"""The table features, row by row, as docs/columns.md defines it."""

import math
from collections.abc import Iterable
from fractions import Fraction

from tests.transforms.derived.oracle.complexity import Fit
from tests.transforms.derived.oracle.context import Context, find_effective_at
from tests.transforms.derived.oracle.fitness import TypeScores, weigh_own_score
from tests.transforms.derived.oracle.rows import DAY, HOUR, MINUTE, SECOND, Row, Settings, Tables
from tests.transforms.derived.oracle.sums import SCALE, correlate, fit_line, quantize, rank

PRIORITIES = [1, 25, 50, 75, 100]


def derive_features(tables: Tables, settings: Settings) -> list[Row]:
    """One row for each report."""
    past = Past(tables, settings)
    return [derive_row(report, past, settings) for report in tables["kpi_reports"]]


class Past:
    """What is known of reports and of the reports before them."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        context = Context(tables, settings)
        self.tasks = {each["report_id"]: context.find_task(each) for each in tables["kpi_reports"]}
        self.agents = {each["report_id"]: context.find_agent(each) for each in tables["kpi_reports"]}
        self.feeding = [report for report in tables["kpi_reports"] if feeds(report)]
        self.windows = [row for row in tables["kpi_aggregations"] if row["granularity"] == "1h"]
        self.fits: dict[int, Fit] = {}
        self.scores: dict[tuple[int, str | None], TypeScores] = {}

    def see_minutes(self, report: Row) -> list[Row]:
        """W: the reports of the agent in the minutes [m - 62, m - 2)."""
        m = find_minute(report)
        return [
            each
            for each in self.feeding
            if each["agent_id"] == report["agent_id"] and m - 62 <= find_minute(each) < m - 2
        ]

    def see_hours(self, first: int, end: int) -> list[Row]:
        """The reports of all agents in the hours [first, end)."""
        return [each for each in self.feeding if first <= find_hour(each) < end]

    def find_agent_type(self, report: Row) -> str | None:
        """The agent's own type, else what the report itself asks for."""
        agent = self.agents[report["report_id"]]
        return agent["agent_type"] if agent else report["target_agent_type"]

    def find_asked(self, report: Row, name: str) -> str | int | None:
        """The task's, else the report's own."""
        return (self.tasks[report["report_id"]] or report)[name]

    def find_fit(self, hour: int) -> Fit:
        """What the latencies of the 24 hours before an hour say about tasks."""
        if hour not in self.fits:
            reports = self.see_hours(hour - 24, hour)
            tasks = [self.tasks[report["report_id"]] for report in reports]
            known = [(task, report["latency_ms"]) for task, report in zip(tasks, reports) if task]
            self.fits[hour] = Fit(known)
        return self.fits[hour]

    def find_type_scores(self, hour: int, agent_type: str | None) -> TypeScores:
        """The scores of the agents of a type in the hour before an hour."""
        key = hour, agent_type
        if key not in self.scores:
            reports = self.see_hours(hour - 1, hour)
            self.scores[key] = TypeScores(
                [each for each in reports if self.find_agent_type(each) == agent_type]
            )
        return self.scores[key]


def feeds(report: Row) -> bool:
    """Whether a report was received at most 60 s after it was recorded, or at an unknown time."""
    return report["received_at"] is None or report["received_at"] - report["recorded_at"] <= 60 * SECOND


def find_minute(report: Row) -> int:
    return report["recorded_at"] // MINUTE


def find_hour(report: Row) -> int:
    return report["recorded_at"] // HOUR


def find_settled_hour(report: Row) -> int:
    """h."""
    return (find_minute(report) - 2) // 60


def derive_row(report: Row, past: Past, settings: Settings) -> Row:
    row = {name: report[name] for name in ("report_id", "recorded_at", "agent_id", "task_id")}
    row |= describe_context(report, past, settings)
    row |= encode_time(report)
    if report["recorded_at"] > find_effective_at(report) + 60 * SECOND:
        return row | EARLY
    window = past.see_minutes(report)
    row |= count_experience(report, past, settings)
    row |= compare_workload(report, window, settings)
    row |= find_trends(report, window)
    row |= expect_latency(report, past, settings)
    row |= correlate_resources(report, past, settings)
    return row | score_fitness(report, past, window)


COUNTS = ("trend_n", "throughput_trend_n", "task_complexity_n", "resource_correlation_n")
VALUES = ("experience_tasks", "experience_level", "workload", "workload_level", "latency_trend")
VALUES += ("latency_trend_se", "accuracy_trend", "accuracy_trend_se", "throughput_trend")
VALUES += ("throughput_trend_se", "task_complexity_score", "cpu_correlation", "memory_correlation")
VALUES += ("resource_correlation", "agent_fitness_score", "agent_fitness_weight")
EARLY = dict.fromkeys(VALUES) | dict.fromkeys(COUNTS, 0)
"""What an early report has instead of a past."""


def describe_context(report: Row, past: Past, settings: Settings) -> Row:
    task, agent = past.tasks[report["report_id"]], past.agents[report["report_id"]]
    agent_type, priority = past.find_agent_type(report), past.find_asked(report, "priority")
    metadata = dict((task and task["metadata"]) or ())
    return {
        "context_state": "complete" if task and agent else "missing",
        "agent_type": agent_type,
        "agent_type_category": find_category(agent_type, settings["agent_type_categories"]),
        "source_layer": past.find_asked(report, "source_layer"),
        "target_agent_type": past.find_asked(report, "target_agent_type"),
        "priority": priority,
        "priority_encoded": None if priority is None else PRIORITIES.index(priority),
        "experiment": metadata.get("experiment"),
        "variant": metadata.get("variant"),
    }


def find_category(agent_type: str | None, categories: str) -> str | None:
    """The first name of which a word is in the type; `other` if there is none."""
    if agent_type is None:
        return None
    for category in categories.split(";"):
        name, words = category.split("=")
        if any(lower_ascii(word) in lower_ascii(agent_type) for word in words.split(",")):
            return name
    return "other"


def lower_ascii(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def encode_time(report: Row) -> Row:
    hour, day = 2 * math.pi * report["hour_of_day"] / 24, 2 * math.pi * (report["day_of_week"] - 1) / 7
    return {
        "execution_hour_sin": math.sin(hour),
        "execution_hour_cos": math.cos(hour),
        "execution_day_sin": math.sin(day),
        "execution_day_cos": math.cos(day),
    }


def count_experience(report: Row, past: Past, settings: Settings) -> Row:
    begin = report["recorded_at"] - settings["experience_days"] * DAY
    end = (find_settled_hour(report) - 1) * HOUR
    n = sum(
        window["task_count"]
        for window in past.windows
        if window["agent_id"] == report["agent_id"]
        and window["time_window_start"] >= begin
        and window["time_window_end"] <= end
    )
    step = settings["experience_step"]
    level = "new" if n < step else "low" if n < step**2 else "medium" if n < step**3 else "high"
    return {"experience_tasks": n, "experience_level": level}


def sum_latency(reports: Iterable[Row]) -> int:
    return sum(quantize(report["latency_ms"]) for report in reports)


def compare_workload(report: Row, window: list[Row], settings: Settings) -> Row:
    row: Row = {"workload": None, "workload_level": None}
    if not window:
        return row
    m, f = find_minute(report), min(map(find_minute, window))
    length = m - 8 - f
    if length < 10:
        return row
    recent = sum_latency(each for each in window if m - 7 <= find_minute(each) < m - 2)
    usual = sum_latency(each for each in window if f < find_minute(each) < m - 7)
    mean = Fraction(sum_latency(window), len(window))
    if not mean:
        return row
    workload = float((recent + mean) / (Fraction(5 * usual, length) + mean))
    low, high = settings["workload_low"], settings["workload_high"]
    level = "low" if workload < low else "high" if workload > high else "normal"
    return {"workload": workload, "workload_level": level}


def find_trends(report: Row, window: list[Row]) -> Row:
    minutes = [find_minute(each) for each in window]
    row: Row = {"trend_n": len(window), "throughput_trend_n": 0}
    for name, column in (("latency", "latency_ms"), ("accuracy", "accuracy")):
        slope, error = fit_line(minutes, [quantize(each[column]) for each in window])
        row[f"{name}_trend"] = None if slope is None else slope / SCALE
        row[f"{name}_trend_se"] = None if error is None else error / SCALE
    if window:
        counted = range(min(minutes) + 1, find_minute(report) - 2)
        row["throughput_trend_n"] = len(counted)
    else:
        counted = range(0)
    line = fit_line(list(counted), [minutes.count(minute) for minute in counted])
    row["throughput_trend"], row["throughput_trend_se"] = line
    return row


def expect_latency(report: Row, past: Past, settings: Settings) -> Row:
    fit, task = past.find_fit(find_settled_hour(report)), past.tasks[report["report_id"]]
    is_known = task is not None and fit.n >= settings["fit_reports"]
    return {
        "task_complexity_n": fit.n,
        "task_complexity_score": fit.expect_latency(task) if is_known else None,
    }


def correlate_resources(report: Row, past: Past, settings: Settings) -> Row:
    h = find_settled_hour(report)
    reports = [each for each in past.see_hours(h - 1, h) if each["agent_id"] == report["agent_id"]]
    row: Row = {"resource_correlation_n": len(reports)}
    ranks = {
        name: rank([each[name] for each in reports]) for name in ("latency_ms", "cpu_usage", "memory_mb")
    }
    is_enough = len(reports) >= settings["correlation_reports"]
    cpu = correlate(ranks["latency_ms"], ranks["cpu_usage"]) if is_enough else None
    memory = correlate(ranks["latency_ms"], ranks["memory_mb"]) if is_enough else None
    row |= {"cpu_correlation": cpu, "memory_correlation": memory, "resource_correlation": cpu}
    if memory is not None and (cpu is None or abs(memory) > abs(cpu)):
        row["resource_correlation"] = memory
    return row


def score_fitness(report: Row, past: Past, window: list[Row]) -> Row:
    scores = past.find_type_scores(find_settled_hour(report), past.find_agent_type(report))
    score, weight = weigh_own_score([each["performance_score"] for each in window], scores)
    return {"agent_fitness_score": score, "agent_fitness_weight": weight}
