"""Random small outputs: reports, windows, records, quarantine and duplicates that hit the rules' bounds.

Times are drawn at and one microsecond beside the bounds, values from few, so that ties are frequent.
"""

import uuid
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pyarrow as pa

from schemas.tables import AGGREGATIONS, DUPLICATES, QUARANTINED, RECORD_TABLES, REPORTS, Table
from tests.transforms.derived.oracle.rows import DAY, HOUR, MINUTE, SECOND, Row, Settings

STORED = [REPORTS, AGGREGATIONS, QUARANTINED, DUPLICATES, *RECORD_TABLES.values()]
EPOCHS = [1_760_947_200 * SECOND] * 6 + [0, -62_135_000_000 * SECOND, 253_402_000_000 * SECOND]
"""Where an output begins: mostly 2025-10-20 08:00; also 1970, and within a day of the years 1 and 9999."""
TYPES = ["alpha-coder", "Beta", "beta", "data_ÄNALYST", "z"]
CATEGORIES = ["code=coder,Dev;data=analyst,ETA;any=z", "x=alpha;y=Alpha-c"]
PRIORITIES = [1, 25, 50, 75, 100]
LAYERS = ["layer2", "layer3"]
REASONS = ["oversize", "envelope", "depth", "utf8", "json", "duplicate_key", "not_object"]
REASONS += ["error", "refused", "stale", "future", "schema"]
KINDS = ["kpi_report", "task", "execution_result", "agent", "system_health", None]


def make_settings(random: Random) -> Settings:
    """Settings near their defaults, with small archives in mind."""
    return {
        "stale_seconds": random.choice([3600, 94_000]),
        "future_seconds": random.choice([60, 300]),
        "context_wait_seconds": random.choice([60, 60, 0, 300]),
        "context_hours": random.choice([24, 24, 1]),
        "experience_days": random.choice([7, 1]),
        "experience_step": random.choice([10, 2]),
        "workload_low": random.choice([0.5, 0.9]),
        "workload_high": random.choice([2.0, 1.1]),
        "fit_reports": random.choice([20, 40]),
        "correlation_reports": random.choice([3, 10]),
        "agent_type_categories": random.choice(CATEGORIES),
        "clock_tolerance_seconds": random.choice([5, 0]),
        "quota_tolerance": random.choice([0.01, 0.0]),
        "false_alarm_rate": random.choice([0.00001, 0.05, 0.3]),
        "timely_seconds": random.choice([10, 1]),
        "completeness_threshold": random.choice([0.98, 0.5]),
        "accuracy_threshold": random.choice([0.95, 0.5, 1.0]),
        "timeliness_threshold": random.choice([0.99, 0.5]),
        "consistency_threshold": random.choice([0.99, 0.5, 0.0]),
    }


def make_archive(random: Random, settings: Settings) -> dict[str, pa.Table]:
    """Every stored table of one output, by its name; the rows of each are in random order."""
    rows = Archive(random, settings).make()
    for table in rows.values():
        random.shuffle(table)
    return {table.name: make_table(table, rows[table.name]) for table in STORED}


def make_table(table: Table, rows: Iterable[Row]) -> pa.Table:
    """Rows in the columns of a stored table; a column that they lack is null."""
    columns = []
    for field in table.schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=table.schema)


class Archive:
    """One output in the making. `style` says what it is about."""

    def __init__(self, random: Random, settings: Settings) -> None:
        self.random, self.settings = random, settings
        self.style = random.choice(["mixed", "mixed", "hour", "fleet", "fit"])
        self.begin = random.choice(EPOCHS)
        self.wait, self.age = settings["context_wait_seconds"] * SECOND, settings["context_hours"] * HOUR
        n_agents = {"mixed": random.randint(1, 4), "hour": 2, "fleet": random.randint(8, 10), "fit": 3}
        self.agents = [self.make_uuid() for _ in range(n_agents[self.style])]
        self.tasks = [self.make_uuid() for _ in range(random.randint(3, 12))]
        self.sources = random.sample(["layer4_kpi_reports", "archive", "s"], random.randint(1, 3))
        self.types = sorted(random.sample(TYPES, 2 if self.style == "fleet" else 4))
        self.hours = {"mixed": random.choice([3, 30]), "hour": 3, "fleet": 3, "fit": 6}[self.style]
        self.n_messages = 0
        self.known_share = random.choice([0.1, 0.5, 0.8])
        self.latencies = random.choice([self.draw_size, lambda: 120.0, lambda: 1e-9, self.draw_any_size])
        self.fractions = random.choice([self.draw_fraction, self.draw_fraction, lambda: 0.5])

    def make(self) -> dict[str, list[Row]]:
        """The rows of every table."""
        reports = self.make_reports()
        self.anchors = [report["recorded_at"] for report in reports]
        self.received = [report["received_at"] or report["recorded_at"] for report in reports]
        rows = {
            "kpi_reports": reports,
            "kpi_aggregations": self.make_windows(reports),
            "tasks": self.make_tasks(reports) if self.random.random() < 0.9 else [],
            "results": self.make_results() if self.random.random() < 0.9 else [],
            "agents": self.make_agents() if self.random.random() < 0.9 else [],
            "system_health": [self.make_health() for _ in range(self.random.randint(0, 4))],
            "duplicates": [self.make_message(self.draw_received()) for _ in range(self.random.randint(0, 9))],
        }
        return rows | {"quarantine": self.make_quarantine(rows)}

    def make_uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def make_hex(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def maybe(self, draw: Callable[[], Any], share: float = 0.8) -> Any:
        """A value, or null."""
        return draw() if self.random.random() < share else None

    def shift(self, *bounds: int) -> int:
        """A bound exactly, or one microsecond beside it."""
        return self.random.choice(bounds) + self.random.choice([0, 0, 1, -1])

    def make_message(self, received_at: int | None) -> Row:
        self.n_messages += 1
        source = self.random.choice(self.sources)
        return {"source": source, "message_id": f"{self.n_messages}-0", "received_at": received_at}

    def make_report_times(self) -> list[int]:
        hours, choice, grid = self.hours, self.random.choice, [0, 1, 2, 3, 30, 57, 58, 59]
        n = self.random.randint(20, 60) if self.style != "fit" else self.random.randint(40, 120)
        times = []
        for _ in range(n):
            at = self.begin + self.random.randrange(hours) * HOUR
            at += choice(
                [choice(grid) * MINUTE, self.random.randrange(HOUR), self.random.randrange(60) * MINUTE]
            )
            times.append(at + choice([0, 0, -1, 1, SECOND]))
        return times

    def make_reports(self) -> list[Row]:
        reports = [self.make_report(self.random.choice(self.agents), at) for at in self.make_report_times()]
        if self.style == "hour":
            for _ in range(self.random.randint(20, 120)):
                minute = self.random.randrange(60, 122)
                at = self.begin + minute * MINUTE + self.random.choice([0, 0, self.random.randrange(MINUTE)])
                reports.append(self.make_report(self.agents[0], at))
        if self.style == "fleet":
            reports += self.make_fleet_reports()
        return reports

    def make_fleet_reports(self) -> list[Row]:
        """Reports of agents of one type in one hour, about 10 each, and one of each agent after it."""
        reports = []
        for agent_id in self.agents:
            level = self.random.choice([1.0, 1.0, 1.0, self.random.uniform(0.5, 2)])
            for _ in range(self.random.choice([9, 10, 10, 11, 11, 12, 14])):
                at = self.begin + HOUR + self.random.randrange(HOUR)
                report = self.make_report(agent_id, at) | {"target_agent_type": self.types[0]}
                report["latency_ms"] *= level
                report["accuracy"] *= min(level, 1.0)
                reports.append(report)
            ends = (self.shift(2 * MINUTE, HOUR + 2 * MINUTE) for _ in range(2))
            reports += [self.make_report(agent_id, self.begin + 2 * HOUR + end) for end in ends]
        return reports

    def draw_delay(self) -> int:
        timely = self.settings["timely_seconds"] * SECOND
        bounds = [0, SECOND, 60 * SECOND, -60 * SECOND, timely]
        early, late = (self.settings[name] * SECOND for name in ("future_seconds", "stale_seconds"))
        if self.random.random() < 0.1:
            bounds = [3500 * SECOND, late, -early]
        return min(max(self.shift(*bounds), -early), late)

    def draw_size(self) -> float:
        return self.random.choice([100.0, 100.0, 120.0, 404.0, 1010.0, 5000.5])

    def draw_any_size(self) -> float:
        return self.random.choice([self.random.lognormvariate(5, 1), self.draw_size(), 299_999.999])

    def draw_fraction(self) -> float:
        return self.random.choice([0.0, 0.5, 0.505, 0.9, 0.9, 1.0, self.random.random()])

    def make_report(self, agent_id: str, recorded_at: int) -> Row:
        random = self.random
        received_at = self.maybe(lambda: recorded_at + self.draw_delay(), 0.85)
        cores = random.choice([1, 8, 8, 64])
        flags = {
            f"is_{name}_outlier": random.random() < 0.03 for name in ("latency", "accuracy", "cpu", "memory")
        }
        return self.make_message(received_at) | flags | {
            "report_id": self.make_hex(),
            "task_id": random.choice(self.tasks) if random.random() < 0.8 else self.make_uuid(),
            "agent_id": agent_id,
            "recorded_at": recorded_at,
            "latency_ms": self.latencies(),
            "accuracy": self.fractions(),
            "cpu_usage": self.fractions(),
            "memory_mb": self.draw_any_size(),
            "network_bytes": self.maybe(lambda: random.choice([0, 126_250, 125_000, 10**11])),
            "execution_context": {"hostname": "h", "available_cores": cores, "available_memory_mb": 4096.0},
            "error_details": self.maybe(lambda: '"broken"', 0.3),
            "source_layer": self.maybe(lambda: random.choice(LAYERS), 0.6),
            "target_agent_type": self.maybe(lambda: random.choice(self.types), 0.6),
            "priority": self.maybe(lambda: random.choice(PRIORITIES), 0.6),
            "schema_version": 1,
            "revision": 0,
            "performance_score": self.fractions(),
            "hour_of_day": random.randrange(24),
            "day_of_week": random.randint(1, 7),
        }  # fmt: skip

    def make_windows(self, reports: list[Row]) -> list[Row]:
        """Windows of reports, of their hours and of the bounds of the experience."""
        days = self.settings["experience_days"] * DAY
        windows = {}
        for report in self.random.sample(reports, min(30, len(reports))):
            hour = report["recorded_at"] // HOUR * HOUR
            starts = [hour - HOUR * self.random.randrange(4), hour - days, hour - days + HOUR]
            for start in starts:
                granularity, length = self.random.choice([("1h", HOUR)] * 8 + [("1m", MINUTE)])
                if start < -62_135_596_800 * SECOND:
                    continue
                agent_id = self.random.choice([report["agent_id"], self.random.choice(self.agents)])
                windows[granularity, agent_id, start] = {
                    "granularity": granularity,
                    "time_window_start": start,
                    "time_window_end": min(start + length, 253_402_300_800 * SECOND - 1),
                    "agent_id": agent_id,
                    "task_count": self.random.choice([1, 2, 3, 4, 7, 8, 9, 10, 100, 1000]),
                    "revision": 1,
                }
        return list(windows.values())

    def draw_record_times(self) -> tuple[int, int | None]:
        """The record's own time and received_at, both near bounds of some report."""
        if self.random.random() < self.known_share:
            early = self.begin - self.random.randrange(self.age // 2)
            return early, early + SECOND
        n = self.random.randrange(len(self.anchors))
        tolerance = self.settings["clock_tolerance_seconds"] * SECOND
        far = [-self.age, self.age] if self.random.random() < 0.2 else [0]
        own = self.anchors[n] + self.shift(0, tolerance, -tolerance, -MINUTE, *far)
        if self.random.random() < 0.2:
            return own, None
        later = [self.age] if self.random.random() < 0.3 else [self.wait]
        return own, self.received[n] + self.shift(0, self.wait, -MINUTE, -HOUR, *later)

    def draw_received(self) -> int | None:
        return self.maybe(lambda: self.random.choice(self.received) + self.shift(0, MINUTE), 0.9)

    def make_versions(self, ids: list[str], make_columns: Callable[[str, int], Row], time: str) -> list[Row]:
        """Up to three versions of most ids; some have one effective_at."""
        rows = []
        for each in ids:
            effective_at = None
            for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
                own, received_at = self.draw_record_times()
                if effective_at is not None and received_at is not None and self.random.random() < 0.3:
                    received_at = effective_at
                effective_at = own if received_at is None else received_at
                row = self.make_message(received_at) | make_columns(each, own)
                rows.append(row | {"version": self.make_hex(), "effective_at": effective_at, time: own})
        return rows

    def make_tasks(self, reports: list[Row]) -> list[Row]:
        random = self.random

        def draw_quotas() -> Row:
            report = random.choice(reports)
            cores = report["cpu_usage"] * report["execution_context"]["available_cores"]
            return {
                "max_cpu_cores": random.choice([4.0, 8.0, cores or 1.0, cores / 1.01 or 1.0]),
                "max_memory_mb": random.choice([0, 100, 400, 1000, 4_294_967_295]),
                "max_execution_time_secs": random.choice([0, 1, 5, 4_294_967_295]),
                "max_network_mbps": self.maybe(lambda: random.choice([0, 1, 10, 4_294_967_295])),
            }

        def make_columns(task_id: str, created_at: int) -> Row:
            metadata = {"experiment": "e1", "variant": random.choice("ab"), "x": "y"}
            names = random.sample(sorted(metadata), random.randint(0, 3))
            return {
                "task_id": task_id,
                "priority": random.choice(PRIORITIES),
                "source_layer": random.choice(LAYERS),
                "target_agent_type": random.choice(self.types),
                "payload_bytes": self.maybe(lambda: random.choice([1, 100, 5000, random.randint(1, 9999)])),
                "metadata": self.maybe(lambda: {name: metadata[name] for name in names}),
                **(self.maybe(draw_quotas) or {}),
            }

        ids = self.tasks + [each["task_id"] for each in random.sample(reports, min(len(reports), 10))]
        return self.make_versions(list(dict.fromkeys(ids)), make_columns, "created_at")

    def make_results(self) -> list[Row]:
        def make_columns(task_id: str, completed_at: int) -> Row:
            return {"task_id": task_id, "success": self.random.random() < 0.6}

        return self.make_versions(self.tasks, make_columns, "completed_at")

    def make_agents(self) -> list[Row]:
        random = self.random

        def make_columns(agent_id: str, created_at: int) -> Row:
            capabilities = self.maybe(lambda: random.sample(TYPES, random.randint(0, 2)), 0.7)
            agent_type = random.choice(self.types)
            return {
                "agent_id": agent_id,
                "agent_type": agent_type,
                "state": "x",
                "capabilities": capabilities,
            }

        rows = self.make_versions(self.agents, make_columns, "created_at")
        for row in rows:
            if row["received_at"] is None and random.random() < 0.5:
                row["created_at"] = row["effective_at"] = None
        return rows

    def make_health(self) -> Row:
        received_at = self.draw_received()
        return self.make_message(received_at) | {"effective_at": received_at, "status": "ok"}

    def make_quarantine(self, rows: dict[str, list[Row]]) -> list[Row]:
        """Rows of every reason, and those of messages that were replayed and are in other tables now."""
        quarantined = [
            self.make_rejection(self.make_message(self.draw_received()), self.draw_open_resolution())
            for _ in range(self.random.choice([0, 10, 30]))
        ]
        for name in ("kpi_reports", "tasks", "results", "agents", "system_health", "duplicates"):
            for row in self.random.sample(rows[name], min(len(rows[name]), self.random.choice([0, 0, 1, 2]))):
                message = {column: row[column] for column in ("source", "message_id", "received_at")}
                resolution = self.random.choice(["replayed", "recency waived"])
                quarantined.append(self.make_rejection(message, resolution))
        return quarantined

    def draw_open_resolution(self) -> str | None:
        return self.random.choice([None, None, None, "dismissed"])

    def make_rejection(self, message: Row, resolution: str | None) -> Row:
        reason = self.random.choice(REASONS)
        text = self.random.choice(["None is not of type 'string'", "'x' is not of type 'number'"])
        rule = self.random.choice(["required", "type", "type", "maximum"]) if reason == "schema" else None
        return message | {
            "kind": self.random.choice(KINDS),
            "payload": b"{}",
            "reason": reason,
            "rule": rule,
            "message": text,
            "resolution": resolution,
            "revision": 1,
        }
