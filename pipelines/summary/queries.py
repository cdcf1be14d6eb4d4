"""Reads the summary of an output folder: the queries behind `kpiflow show`.

Every query streams: Arrow reads the columns it needs, file after file, and only groups stay in memory (hours,
agents, causes). The names of messages in duplicates and quarantine stay in memory too: a message that is also
in a table of higher rank counts only there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.failures import RunFailed, WrongUse
from pipelines.summary.kept_counts import KeptCounts
from pipelines.summary.quality import read_quality
from pipelines.summary.summary import Agent, HourCounts, KindCounts, LatencySummary, Outlier, Reason, Summary
from pipelines.verify.record_keys import FATES
from pipelines.verify.table_scan import list_files
from schemas.kinds import KINDS, REPORT_KIND
from schemas.tables import (
    AGGREGATIONS,
    DUPLICATES,
    MESSAGE_KEY,
    METRIC_COLUMNS,
    METRICS,
    OUTLIER_FLAGS,
    QUARANTINED,
    REPORTS,
    Table,
)
from transforms.core.errors import Refused, Unavailable
from transforms.core.grouping import compute_group_medians
from transforms.core.time_range import Span
from transforms.sinks.parquet.output_files import OutputFile, OutputFiles
from transforms.sinks.parquet.parquet_file import open_dataset

AGENTS_LISTED = 10
PERCENTILES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")


def summarise(output: Path, kept: KeptCounts | None = None) -> Summary:
    """Read the summary of an output folder. Any table may be missing or empty. `kept`: of an earlier summary.

    Raises:
        WrongUse: there is no such folder.
        RunFailed: a file cannot be read.
    """
    if not output.is_dir():
        fix = "`kpiflow backfill --input FILE... --output OUT` makes one from archived reports"
        raise WrongUse(f"no folder {output}", fix)
    try:
        return _read_summary(output, kept or KeptCounts())
    except (pa.ArrowException, OSError, Refused, Unavailable) as error:
        fix = f"`kpiflow reconcile {output}` names every damaged file; if a job is writing there, try again"
        raise RunFailed(f"cannot read {output}: {error}", fix) from error


def _read_summary(output: Path, kept: KeptCounts) -> Summary:
    cube = kept.count(list_files(output, REPORTS), _count_reports)
    by_hour, by_agent = _sum_by(cube, "hour"), _sum_by(cube, "agent_id")
    duplicates = _count_messages(output, DUPLICATES, ["hour", "kind"], FATES[:-2])
    quarantined = _count_messages(output, QUARANTINED, ["hour", "reason", "kind"], FATES[:-1])
    outliers = {metric: sum(by_hour[metric].to_pylist()) for metric in METRICS}
    examples = (_find_example(output, metric, by_hour) for metric in METRICS if outliers[metric])
    reports = sum(by_hour["reports"].to_pylist())
    kinds = _count_kinds(output, reports, _count_by_key(duplicates, 1), _count_by_key(quarantined, 2))
    return Summary(
        output=str(output),
        reports=reports,
        failed=sum(by_hour["failed"].to_pylist()),
        duplicates=duplicates.total(),
        quarantined=quarantined.total(),
        agents=by_agent.num_rows,
        first=pc.min(cube["first"]).as_py(),
        last=pc.max(cube["last"]).as_py(),
        hours=_join_hours(by_hour, duplicates, quarantined, _read_latencies(output)),
        outliers=outliers,
        examples=tuple(example for example in examples if example),
        worst_agents=_rank_agents(by_agent),
        reasons=_rank_reasons(output, quarantined),
        kinds=kinds,
        quality=read_quality(output, Span()),
    )


def _open_dataset(output: Path, table: Table, columns: Sequence[str]) -> ds.Dataset:
    """The named columns of a table's files."""
    return _open_files(list_files(output, table), table, columns)


def _open_files(files: Sequence[OutputFile], table: Table, columns: Sequence[str]) -> ds.Dataset:
    """The named columns of some files of a table. Files that are not on this machine are read into memory."""
    schema = pa.schema([table.schema.field(name) for name in columns])
    if not files:
        return ds.dataset(schema.empty_table())
    return open_dataset([file.open() for file in files], schema)


def _scan_columns(rows: ds.Dataset, columns: Mapping[str, pc.Expression]) -> acero.Declaration:
    """A stream of `columns`. Without the projection Arrow adds its own columns (file name, batch number)."""
    scan = acero.Declaration("scan", acero.ScanNodeOptions(rows, columns=rows.schema.names))
    project = acero.Declaration("project", acero.ProjectNodeOptions(list(columns.values()), list(columns)))
    return acero.Declaration.from_sequence([scan, project])


def _group_rows(
    rows: ds.Dataset,
    keys: Mapping[str, pc.Expression],
    values: Mapping[str, tuple[pc.Expression, str]],
    count: str,
) -> pa.Table:
    """Group by `keys` in one streaming pass.

    Returns the keys, `values` (name -> expression and hash aggregate), and the number of rows as `count`.
    """
    scan = _scan_columns(rows, {**keys, **{name: value for name, (value, _) in values.items()}})
    folds = [
        ([], "hash_count_all", None, count),
        *((name, fold, None, name) for name, (_, fold) in values.items()),
    ]
    options = acero.AggregateNodeOptions(folds, keys=list(keys))
    return acero.Declaration("aggregate", options, inputs=[scan]).to_table().select([*keys, *values, count])


def _floor_hour(column: str) -> pc.Expression:
    return pc.floor_temporal(pc.field(column), unit="hour")


def _count_reports(files: Sequence[OutputFile]) -> pa.Table:
    """Reports by (hour, agent_id): reports, failed, first and last recorded_at, flagged values by metric."""
    recorded_at = pc.field("recorded_at")
    return _group_rows(
        _open_files(files, REPORTS, ["recorded_at", "agent_id", "error_details", *OUTLIER_FLAGS.values()]),
        {"hour": _floor_hour("recorded_at"), "agent_id": pc.field("agent_id")},
        {
            "failed": (pc.field("error_details").is_valid(), "hash_sum"),
            "first": (recorded_at, "hash_min"),
            "last": (recorded_at, "hash_max"),
            **{
                name: (pc.coalesce(pc.field(flag), False), "hash_sum") for name, flag in OUTLIER_FLAGS.items()
            },
        },
        count="reports",
    )


def _sum_by(cube: pa.Table, key: str) -> pa.Table:
    names = ["reports", "failed", *METRICS]
    totals = cube.group_by(key).aggregate([(name, "sum") for name in names])
    return totals.select([key, *(f"{name}_sum" for name in names)]).rename_columns([key, *names]).sort_by(key)


def _count_kinds(
    output: Path, reports: int, duplicates: Counter[str], quarantined: Counter[str]
) -> tuple[KindCounts, ...]:
    """The messages of each kind that has some; none if all are reports."""
    stored = {
        name: reports if kind == REPORT_KIND else _open_dataset(output, kind.table, ["source"]).count_rows()
        for name, kind in KINDS.items()
    }
    counted = (KindCounts(name, stored[name], duplicates[name], quarantined[name]) for name in KINDS)
    found = tuple(each for each in counted if each.total)
    return found if any(each.kind != REPORT_KIND.schema for each in found) else ()


def _count_messages(
    output: Path, table: Table, keys: Sequence[str], above: Sequence[Table]
) -> Counter[tuple]:
    """Count messages by `keys` (`hour` is that of received_at), without those also in a table `above`."""
    given = {"hour": _floor_hour("received_at"), "kind": pc.coalesce(pc.field("kind"), REPORT_KIND.schema)}
    chosen = {key: given.get(key, pc.field(key)) for key in keys}
    rows = _open_dataset(
        output, table, [*MESSAGE_KEY, "received_at", *(key for key in keys if key != "hour")]
    )
    counts = _group_rows(rows, chosen, {}, count="count")
    if not counts.num_rows:
        return Counter()
    messages = rows.to_table(columns={**{name: pc.field(name) for name in MESSAGE_KEY}, **chosen})
    higher = (_open_dataset(output, upper, MESSAGE_KEY) for upper in above)
    outranked = pa.concat_tables([_select_present(messages, rows) for rows in higher])
    distinct = outranked.group_by(outranked.column_names).aggregate([])
    lost = distinct.group_by(list(keys)).aggregate([([], "count_all")])
    return _to_counter(counts) - _to_counter(lost.select([*keys, "count_all"]))


def _select_present(messages: pa.Table, upper: ds.Dataset) -> pa.Table:
    """The rows of `messages` whose message is also in `upper`, which is streamed."""
    options = acero.HashJoinNodeOptions("right semi", list(MESSAGE_KEY), list(MESSAGE_KEY))
    sought = acero.Declaration("table_source", acero.TableSourceNodeOptions(messages))
    passing = _scan_columns(upper, {name: pc.field(name) for name in MESSAGE_KEY})
    return acero.Declaration("hashjoin", options, inputs=[passing, sought]).to_table()


def _to_counter(counts: pa.Table) -> Counter[tuple]:
    *keys, totals = (column.to_pylist() for column in counts.columns)
    return Counter(dict(zip(zip(*keys), totals)))


def _count_by_key(counts: Counter[tuple], place: int) -> Counter[Any]:
    totals: Counter[Any] = Counter()
    for key, count in counts.items():
        totals[key[place]] += count
    return totals


def _read_latencies(output: Path) -> dict[datetime, LatencySummary]:
    files = [file for file in list_files(output, AGGREGATIONS) if "=1h/" in file.name]
    stored = _open_files(files, AGGREGATIONS, ["time_window_start", *PERCENTILES])
    rows = stored.to_table().drop_null().combine_chunks()
    if not rows.num_rows:
        return {}
    hours = rows["time_window_start"].combine_chunks().dictionary_encode()
    codes = hours.indices.to_numpy()
    p50, p95, p99 = (compute_group_medians(codes, rows[name].to_numpy()).tolist() for name in PERCENTILES)
    return dict(
        zip(hours.dictionary.to_pylist(), map(LatencySummary, p50, p95, p99, np.bincount(codes).tolist()))
    )


def _join_hours(
    by_hour: pa.Table,
    duplicates: Counter[tuple],
    quarantined: Counter[tuple],
    latencies: Mapping[datetime, LatencySummary],
) -> tuple[HourCounts, ...]:
    reports = {row["hour"]: row for row in by_hour.to_pylist()}
    nothing = dict.fromkeys(by_hour.column_names, 0)
    repeated, refused = _count_by_key(duplicates, 0), _count_by_key(quarantined, 0)
    hours = []
    for start in sorted({*reports, *repeated, *refused, *latencies} - {None}):
        row = reports.get(start, nothing)
        outliers = {metric: row[metric] for metric in METRICS}
        latency = latencies.get(start)
        hours.append(
            HourCounts(
                start, row["reports"], row["failed"], repeated[start], refused[start], outliers, latency
            )
        )
    return tuple(hours)


def _find_example(output: Path, metric: str, by_hour: pa.Table) -> Outlier | None:
    """The flagged value farthest beyond its fence in the newest hour with a flag, then by report_id."""
    hour = pc.max(by_hour["hour"].filter(pc.greater(by_hour[metric], 0))).as_py()
    value, low, high = METRIC_COLUMNS[metric], f"{metric}_low_fence", f"{metric}_high_fence"
    numbers = [value, low, high, f"{metric}_q1", f"{metric}_q3", "baseline_n"]
    columns = ["agent_id", "task_id", "recorded_at", *numbers]
    read = [*columns, "report_id", OUTLIER_FLAGS[metric]]
    stored = _open_files(OutputFiles.of(output).list_hour(REPORTS.name, hour), REPORTS, read)
    rows = stored.to_table(filter=pc.field(OUTLIER_FLAGS[metric]) & (_floor_hour("recorded_at") == hour))
    beyond = pc.max_element_wise(pc.subtract(rows[value], rows[high]), pc.subtract(rows[low], rows[value]))
    order = [("beyond", "descending"), ("report_id", "ascending")]
    first = rows.append_column("beyond", beyond).sort_by(order).slice(0, 1).select(columns).to_pylist()
    return Outlier(metric, *first[0].values()) if first else None


def _rank_agents(by_agent: pa.Table) -> tuple[Agent, ...]:
    """The agents with the most flagged values, most first."""
    flagged = np.sum([by_agent[metric].to_numpy() for metric in METRICS], axis=0)
    worst = by_agent.append_column("flagged", pa.array(flagged)).filter(pa.array(flagged > 0))
    ranked = worst.sort_by([("flagged", "descending"), ("agent_id", "ascending")])
    rows = ranked.slice(0, AGENTS_LISTED).to_pylist()
    return tuple(
        Agent(row["agent_id"], row["reports"], row["failed"], {m: row[m] for m in METRICS}) for row in rows
    )


def _rank_reasons(output: Path, quarantined: Counter[tuple]) -> tuple[Reason, ...]:
    """Every reason that has a message, the most frequent first."""
    cause = ["reason", "field", "rule"]
    rows = _group_rows(
        _open_dataset(output, QUARANTINED, [*cause, "message"]),
        {name: pc.field(name) for name in cause},
        {"example": (pc.field("message"), "hash_min")},
        count="count",
    )
    # In ascending order, the most frequent cause of a reason is the last that enters the dictionary.
    ties = [(name, "descending") for name in ("example", "field", "rule")]
    ascending = rows.sort_by([("count", "ascending"), *ties]).to_pylist()
    causes = {row["reason"]: (row["field"], row["rule"], row["example"]) for row in ascending}
    counts = sorted(_count_by_key(quarantined, 1).items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(Reason(reason, count, *causes.get(reason, (None,) * 3)) for reason, count in counts)
