"""What an output folder holds, in numbers: the queries behind `kpiflow show`.

Every query streams: Arrow reads the columns it needs, file after file, and only groups stay in memory (hours, agents, causes).
The messages of duplicates and quarantine are held by name, to look up which of them have a higher fate and count there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines.failures import RunFailed, WrongUse
from pipelines.verify.table_scan import paths
from schemas.partitioning import format_hour_folder
from schemas.tables import AGGREGATIONS, DUPLICATES, METRIC_COLUMNS, METRICS, QUARANTINED, REPORTS, Table

UNITS = {"latency": " ms", "accuracy": "", "cpu": "", "memory": " MB"}
"""What follows a value of each metric; fractions have no unit."""

AGENTS_LISTED = 10
FLAGS = {metric: f"is_{metric}_outlier" for metric in METRICS}
NAMED = ("source", "message_id")
PERCENTILES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")


@dataclass(frozen=True)
class Latency:
    """Latency percentiles of an hour in ms, each the plain median over the agents' own percentiles."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    agents: int


@dataclass(frozen=True)
class Hour:
    """One UTC hour: reports and their flagged values by recorded_at, duplicates and quarantined messages by received_at."""

    start: datetime
    reports: int
    failed: int
    duplicates: int
    quarantined: int
    outliers: dict[str, int]
    latency: Latency | None

    @property
    def success_rate(self) -> float | None:
        """Share of the reports without error_details; None without reports."""
        return success_rate(self.reports, self.failed)


@dataclass(frozen=True)
class Agent:
    """One agent: its reports, how many of them failed, and its flagged values by metric."""

    agent_id: str
    reports: int
    failed: int
    outliers: dict[str, int]


@dataclass(frozen=True)
class Outlier:
    """One flagged value and the baseline that flagged it; a number that was not stored is None."""

    metric: str
    agent_id: str
    task_id: str
    recorded_at: datetime
    value: float
    low_fence: float | None
    high_fence: float | None
    q1: float | None
    q3: float | None
    baseline_n: int | None

    def explained(self) -> str:
        """The flag in words: `latency 8123 ms > high fence 812 ms (q1 201, q3 354, n 61)`."""
        below = self.low_fence is not None and self.value < self.low_fence
        side, fence = ("< low", self.low_fence) if below else ("> high", self.high_fence)
        unit = UNITS[self.metric]
        baseline = f"q1 {number(self.q1)}, q3 {number(self.q3)}, n {number(self.baseline_n)}"
        return f"{self.metric} {number(self.value)}{unit} {side} fence {number(fence)}{unit} ({baseline})"


@dataclass(frozen=True)
class Reason:
    """A reason of quarantine; field, rule and example are those of its commonest cause."""

    reason: str
    count: int
    field: str | None
    rule: str | None
    example: str | None


@dataclass(frozen=True)
class Summary:
    """A whole output. `hours` is in time order and leaves out the hours in which nothing came."""

    output: str
    reports: int
    failed: int
    duplicates: int
    quarantined: int
    agents: int
    first: datetime | None
    last: datetime | None
    hours: tuple[Hour, ...]
    outliers: dict[str, int]
    examples: tuple[Outlier, ...]
    worst_agents: tuple[Agent, ...]
    reasons: tuple[Reason, ...]

    @property
    def received(self) -> int:
        """Messages with a fate."""
        return self.reports + self.duplicates + self.quarantined

    @property
    def success_rate(self) -> float | None:
        """Share of the reports without error_details; None without reports."""
        return success_rate(self.reports, self.failed)

    def share(self, count: int) -> float:
        """`count` as a share of what was received, 0 when nothing was."""
        return count / self.received if self.received else 0.0


def success_rate(reports: int, failed: int) -> float | None:
    """Share of `reports` that did not fail; None without reports."""
    return (reports - failed) / reports if reports else None


def number(value: float | None) -> str:
    """A value in few digits: whole from 100 on, else four significant digits."""
    if value is None:
        return "?"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share as `97.3 %`, `-` when there is none; what is neither nothing nor everything never reads as if it were."""
    if share is None:
        return "-"
    low, high = (0.001, 0.999) if 0 < share < 1 else (0.0, 1.0)
    return f"{100 * min(max(share, low), high):.1f} %"


def summarise(output: Path) -> Summary:
    """The numbers of an output folder, in which any table may be missing or empty.

    Raises:
        WrongUse: there is no such folder.
        RunFailed: a file cannot be read.
    """
    if not output.is_dir():
        raise WrongUse(
            f"no folder {output}",
            "`kpiflow backfill --input FILE... --output OUT` makes one from archived reports",
        )
    try:
        return _summarise(output)
    except (pa.ArrowException, OSError) as error:
        hint = f"`kpiflow reconcile {output}` names every damaged file; if a job is writing there, try again"
        raise RunFailed(f"cannot read {output}: {error}", hint) from error


def _summarise(output: Path) -> Summary:
    cube = _cube(output)
    by_hour, by_agent = _totals(cube, "hour"), _totals(cube, "agent_id")
    duplicates = _standing(output, DUPLICATES, ["hour"], (REPORTS,))
    quarantined = _standing(output, QUARANTINED, ["hour", "reason"], (REPORTS, DUPLICATES))
    outliers = {metric: sum(by_hour[metric].to_pylist()) for metric in METRICS}
    examples = (_example(output, metric, by_hour) for metric in METRICS if outliers[metric])
    return Summary(
        output=str(output),
        reports=sum(by_hour["reports"].to_pylist()),
        failed=sum(by_hour["failed"].to_pylist()),
        duplicates=duplicates.total(),
        quarantined=quarantined.total(),
        agents=by_agent.num_rows,
        first=pc.min(cube["first"]).as_py(),
        last=pc.max(cube["last"]).as_py(),
        hours=_hours(by_hour, duplicates, quarantined, _latencies(output)),
        outliers=outliers,
        examples=tuple(example for example in examples if example),
        worst_agents=_worst_agents(by_agent),
        reasons=_reasons(output, quarantined),
    )


def _dataset(output: Path, table: Table, columns: Sequence[str], below: str = "") -> ds.Dataset:
    """The named columns of a table's files, or of those with `below` in their path; no rows when there is none."""
    schema = pa.schema([table.schema.field(name) for name in columns])
    files = [str(path) for path in paths(output, table) if below in path.relative_to(output).as_posix()]
    return ds.dataset(files, schema=schema, format="parquet") if files else ds.dataset(schema.empty_table())


def _scan(rows: ds.Dataset, columns: Mapping[str, pc.Expression]) -> acero.Declaration:
    """A stream of `columns`; without the projection Arrow adds columns of its own (file name, batch number)."""
    scan = acero.Declaration("scan", acero.ScanNodeOptions(rows, columns=rows.schema.names))
    project = acero.Declaration("project", acero.ProjectNodeOptions(list(columns.values()), list(columns)))
    return acero.Declaration.from_sequence([scan, project])


def _grouped(
    rows: ds.Dataset,
    keys: Mapping[str, pc.Expression],
    values: Mapping[str, tuple[pc.Expression, str]],
    count: str,
) -> pa.Table:
    """By `keys`, in one streaming pass: the number of rows as `count`, and `values` (name -> expression, hash aggregate)."""
    scan = _scan(rows, {**keys, **{name: value for name, (value, _) in values.items()}})
    folds = [
        ([], "hash_count_all", None, count),
        *((name, fold, None, name) for name, (_, fold) in values.items()),
    ]
    options = acero.AggregateNodeOptions(folds, keys=list(keys))
    return acero.Declaration("aggregate", options, inputs=[scan]).to_table().select([*keys, *values, count])


def _hour(column: str) -> pc.Expression:
    return pc.floor_temporal(pc.field(column), unit="hour")


def _cube(output: Path) -> pa.Table:
    """Reports by (hour, agent_id): reports, failed, first and last recorded_at, flagged values of each metric."""
    recorded_at = pc.field("recorded_at")
    return _grouped(
        _dataset(output, REPORTS, ["recorded_at", "agent_id", "error_details", *FLAGS.values()]),
        {"hour": _hour("recorded_at"), "agent_id": pc.field("agent_id")},
        {
            "failed": (pc.field("error_details").is_valid(), "hash_sum"),
            "first": (recorded_at, "hash_min"),
            "last": (recorded_at, "hash_max"),
            **{metric: (pc.coalesce(pc.field(flag), False), "hash_sum") for metric, flag in FLAGS.items()},
        },
        count="reports",
    )


def _totals(cube: pa.Table, key: str) -> pa.Table:
    names = ["reports", "failed", *METRICS]
    totals = cube.group_by(key).aggregate([(name, "sum") for name in names])
    return totals.select([key, *(f"{name}_sum" for name in names)]).rename_columns([key, *names]).sort_by(key)


def _standing(output: Path, table: Table, keys: Sequence[str], above: Sequence[Table]) -> Counter[tuple]:
    """Messages by `keys` (hour is that of received_at), without those that a table `above` holds too: they count there."""
    chosen = {key: _hour("received_at") if key == "hour" else pc.field(key) for key in keys}
    rows = _dataset(output, table, [*NAMED, "received_at", *(key for key in keys if key != "hour")])
    counts = _grouped(rows, chosen, {}, count="count")
    if not counts.num_rows:
        return Counter()
    messages = rows.to_table(columns={**{name: pc.field(name) for name in NAMED}, **chosen})
    outranked = pa.concat_tables([_also_in(messages, _dataset(output, upper, NAMED)) for upper in above])
    lost = (
        outranked.group_by(outranked.column_names)
        .aggregate([])
        .group_by(list(keys))
        .aggregate([([], "count_all")])
    )
    return _counter(counts) - _counter(lost.select([*keys, "count_all"]))


def _also_in(messages: pa.Table, upper: ds.Dataset) -> pa.Table:
    """The rows of `messages` whose message is in `upper` too; `upper` streams by."""
    options = acero.HashJoinNodeOptions("right semi", list(NAMED), list(NAMED))
    sought = acero.Declaration("table_source", acero.TableSourceNodeOptions(messages))
    passing = _scan(upper, {name: pc.field(name) for name in NAMED})
    return acero.Declaration("hashjoin", options, inputs=[passing, sought]).to_table()


def _counter(counts: pa.Table) -> Counter[tuple]:
    *keys, totals = (column.to_pylist() for column in counts.columns)
    return Counter(dict(zip(zip(*keys), totals)))


def _by_key(counts: Counter[tuple], place: int) -> Counter[Any]:
    totals: Counter[Any] = Counter()
    for key, count in counts.items():
        totals[key[place]] += count
    return totals


def _latencies(output: Path) -> dict[datetime, Latency]:
    stored = _dataset(output, AGGREGATIONS, ["time_window_start", *PERCENTILES], "=1h/").to_table()
    rows = stored.drop_null().combine_chunks()
    if not rows.num_rows:
        return {}
    hours = rows["time_window_start"].combine_chunks().dictionary_encode()
    codes = hours.indices.to_numpy()
    p50, p95, p99 = (group_medians(codes, rows[name].to_numpy()).tolist() for name in PERCENTILES)
    return dict(zip(hours.dictionary.to_pylist(), map(Latency, p50, p95, p99, np.bincount(codes).tolist())))


def group_medians(codes: NDArray[np.integer], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[groups]: the median of the values of each group; `codes` (int[n]) are 0..groups-1, none of them missing."""
    ordered = values[np.lexsort((values, codes))]
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    return (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2


def _hours(
    by_hour: pa.Table,
    duplicates: Counter[tuple],
    quarantined: Counter[tuple],
    latencies: Mapping[datetime, Latency],
) -> tuple[Hour, ...]:
    reports = {row["hour"]: row for row in by_hour.to_pylist()}
    nothing = dict.fromkeys(by_hour.column_names, 0)
    repeated, refused = _by_key(duplicates, 0), _by_key(quarantined, 0)
    hours = []
    for start in sorted({*reports, *repeated, *refused, *latencies} - {None}):
        row = reports.get(start, nothing)
        outliers = {metric: row[metric] for metric in METRICS}
        latency = latencies.get(start)
        hours.append(
            Hour(start, row["reports"], row["failed"], repeated[start], refused[start], outliers, latency)
        )
    return tuple(hours)


def _example(output: Path, metric: str, by_hour: pa.Table) -> Outlier | None:
    """The flagged value of the newest hour that lies farthest beyond its fence; ties go to the smallest report_id."""
    hour = pc.max(by_hour["hour"].filter(pc.greater(by_hour[metric], 0))).as_py()
    value, low, high = METRIC_COLUMNS[metric], f"{metric}_low_fence", f"{metric}_high_fence"
    columns = [
        "agent_id",
        "task_id",
        "recorded_at",
        value,
        low,
        high,
        f"{metric}_q1",
        f"{metric}_q3",
        "baseline_n",
    ]
    folder = format_hour_folder(hour)
    rows = _dataset(output, REPORTS, [*columns, "report_id", FLAGS[metric]], folder).to_table(
        filter=pc.field(FLAGS[metric])
    )
    beyond = pc.max_element_wise(pc.subtract(rows[value], rows[high]), pc.subtract(rows[low], rows[value]))
    ranked = rows.append_column("beyond", beyond).sort_by(
        [("beyond", "descending"), ("report_id", "ascending")]
    )
    return next(
        (Outlier(metric, *row.values()) for row in ranked.slice(0, 1).select(columns).to_pylist()), None
    )


def _worst_agents(by_agent: pa.Table) -> tuple[Agent, ...]:
    flagged = sum(
        (by_agent[metric].to_numpy() for metric in METRICS), np.zeros(by_agent.num_rows, dtype=np.int64)
    )
    worst = by_agent.append_column("flagged", pa.array(flagged)).filter(pa.array(flagged > 0))
    rows = (
        worst.sort_by([("flagged", "descending"), ("agent_id", "ascending")])
        .slice(0, AGENTS_LISTED)
        .to_pylist()
    )
    return tuple(
        Agent(row["agent_id"], row["reports"], row["failed"], {m: row[m] for m in METRICS}) for row in rows
    )


def _reasons(output: Path, quarantined: Counter[tuple]) -> tuple[Reason, ...]:
    """Every reason with a standing message, the most frequent first."""
    cause = ["reason", "field", "rule"]
    rows = _grouped(
        _dataset(output, QUARANTINED, [*cause, "message"]),
        {name: pc.field(name) for name in cause},
        {"example": (pc.field("message"), "hash_min")},
        count="count",
    )
    ascending = rows.sort_by(
        [("count", "ascending"), *((name, "descending") for name in ("example", "field", "rule"))]
    )
    commonest = {row["reason"]: (row["field"], row["rule"], row["example"]) for row in ascending.to_pylist()}
    counts = sorted(_by_key(quarantined, 1).items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(
        Reason(reason, count, *commonest.get(reason, (None, None, None))) for reason, count in counts
    )
