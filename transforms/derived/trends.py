"""The derived table `trends`: slopes and changes of level of each agent, type of agents, and of the fleet.

docs/columns.md defines every column, docs/trends.md the methods. A row belongs to the minute of the reports
that showed it, so what is derived of new reports has the verdict about them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import TIME, Table
from transforms.analysis.change_points import (
    PAST,
    WINDOW,
    Change,
    confirm,
    count_false_alarms,
    find_alarms,
    find_thresholds,
    screen,
)
from transforms.analysis.hour_profiles import Profile, Rises, build_profile, find_run_starts
from transforms.analysis.series import HOUR, MICRO, Bools, Floats, Ints, Moments, Points
from transforms.analysis.slopes import fit_slopes
from transforms.core.time_units import MINUTE_US
from transforms.derived.derived_table import DerivedTable, Input, Kernel
from transforms.derived.trend_sql import DAYS, LEVELS, METRICS, SQL

COLUMNS = pa.schema(
    [
        ("time_window_start", TIME),
        ("level", pa.string()),
        ("agent_id", pa.string()),
        ("target_agent_type", pa.string()),
        ("metric", pa.string()),
        ("kind", pa.string()),
        ("verdict", pa.string()),
        ("points", pa.int64()),
        ("is_hour_adjusted", pa.bool_()),
        ("slope", pa.float64()),
        ("slope_low", pa.float64()),
        ("slope_high", pa.float64()),
        ("changed_at", TIME),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("change", pa.float64()),
        ("change_low", pa.float64()),
        ("change_high", pa.float64()),
        ("z", pa.float64()),
        ("threshold", pa.float64()),
        ("false_alarms", pa.float64()),
        ("only_type", pa.string()),
    ]
)
TRENDS = Table(
    "trends",
    COLUMNS,
    key=("kind", "level", "agent_id", "target_agent_type", "metric", "time_window_start"),
    order=("level", "agent_id", "target_agent_type", "time_window_start"),
    time="time_window_start",
)


class _Found(NamedTuple):
    """What was found: columns of the table by name, but for those that follow from the points."""

    places: Ints
    metric: str
    kind: str
    columns: dict[str, Any]


class _Context(NamedTuple):
    """What is the same for all metrics. `starts`: int64[n], of the windows. `thresholds`: float64[n]. `own`:
    bool[n], the points that rows are about. `budget`: false alarms a day. `types`: the only type of each
    point, string[n], null if there were several. `type_starts`: int64[n], since which point it was so."""

    points: Points
    starts: Ints
    thresholds: Floats
    own: Bools
    budget: float
    types: pa.Array
    type_starts: Ints


def compute_trends(rows: pa.Table, settings: Mapping[str, Any]) -> pa.Table:
    """The rows of `trends` from those of its SQL: minutes of series, and rises of their profiles."""
    series, names = _number_series(rows)
    is_rise = rows["is_rise"].to_numpy()
    order = np.lexsort((rows["minute"].to_numpy(), series, is_rise))
    rows, series = rows.take(pa.array(order)), series[order]
    count = int((~is_rise).sum())
    given = {
        name: pc.fill_null(rows[name], 0).to_numpy()
        for name in rows.schema.names
        if name != "is_rise" and rows.schema.field(name).type == pa.int64()
    }
    points = Points(series[:count], given["minute"][:count])
    context = _prepare(rows.slice(0, count), points, settings["trend_false_alarms"])
    found: list[_Found] = []
    for name in METRICS:
        raw, clipped = given[name], given[f"clipped_{name}"]
        rises = Rises(series[count:], given["minute"][count:], raw[count:], clipped[count:])
        profile = build_profile(rises, points)
        found += _examine(name, context, raw[:count], clipped[:count], profile)
    return _build(found, points, names)


def _prepare(rows: pa.Table, points: Points, budget: float) -> _Context:
    types = rows["only_type"].combine_chunks().dictionary_encode()
    types = types.combine_chunks() if isinstance(types, pa.ChunkedArray) else types
    codes = pc.fill_null(types.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return _Context(
        points, points.find_starts(WINDOW), find_thresholds(points, budget, len(METRICS)),
        _find_own(rows, points), budget, types.cast(pa.string()), find_run_starts(codes, points),
    )  # fmt: skip


def _number_series(rows: pa.Table) -> tuple[Ints, pa.Table]:
    """The number of the series of each row, int64[n], and the level and name of each."""
    texts = [pc.fill_null(rows[name].combine_chunks(), "") for name in ("level", "name")]
    columns = [each.dictionary_encode() for each in texts]
    columns = [each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in columns]
    level, name = (each.indices.to_numpy().astype(np.int64) for each in columns)
    size = max(len(columns[1].dictionary), 1)
    codes, series = np.unique(level * size + name, return_inverse=True)
    texts = [
        each.dictionary.take(pa.array(code)) for each, code in zip(columns, (codes // size, codes % size))
    ]
    return series.astype(np.int64), pa.table(texts, ["level", "name"])


def _find_own(rows: pa.Table, points: Points) -> Bools:
    """bool[n]: the points that rows are about: of the span, in minutes by whose end all of the past is known.

    In a minute whose reports were all received before it began, by clocks that are ahead, it is not.
    """
    settled = points.minute[rows["is_settled"].to_numpy()]
    return rows["is_own"].to_numpy() & np.isin(points.minute, settled)


def _examine(name: str, context: _Context, raw: Ints, clipped: Ints, profile: Profile) -> Iterator[_Found]:
    """The slopes and changes of one metric."""
    metric, points = METRICS[name], context.points
    values = clipped - profile.level
    moments = Moments.of(values)
    begins = np.maximum(context.starts, find_run_starts(profile.run, points))
    places = _find_first_of_hours(points, context.own)
    lines = fit_slopes(moments, points, places, profile.level)
    holds = ~np.isnan(lines.slope)
    yield _Found(places[holds], name, "slope", {
        "points": lines.points[holds], "is_hour_adjusted": profile.is_known[places[holds]],
        "slope": lines.slope[holds], "slope_low": lines.low[holds], "slope_high": lines.high[holds],
        "verdict": np.where(lines.low > 0, "rising", np.where(lines.high < 0, "falling", "steady"))[holds],
    })  # fmt: skip
    largest = screen(values, moments, begins, profile.level, profile.variance, metric.floor)
    alarms = find_alarms(largest, context.thresholds, points)
    around = begins, profile.level, profile.variance
    changes = list(confirm(alarms, raw - profile.level, points, *around, context.own, metric.floor))
    if changes:
        yield _describe(changes, name, context, begins, profile)


def _find_first_of_hours(points: Points, own: Bools) -> Ints:
    """The own points that are the first of their series in an hour."""
    return np.flatnonzero(points.find_firsts(points.minute // HOUR) & own)


def _describe(
    changes: Sequence[Change], name: str, context: _Context, begins: Ints, profile: Profile
) -> _Found:
    places, points = np.array([each.place for each in changes]), context.points
    scaled = np.array([(each.before, each.after, each.width) for each in changes]).T / MICRO
    before, after, width = scaled
    moved = [after - before + each * width for each in (0, -1, 1)]
    if METRICS[name].is_log:
        before, after, moved = np.exp(before), np.exp(after), [np.expm1(each) for each in moved]
    z, threshold = (np.array([getattr(each, part) for each in changes]) for part in ("z", "threshold"))
    is_one = pa.array(context.type_starts[places] <= begins[places])
    return _Found(places, name, "change", {
        "points": places - begins[places] + 1, "is_hour_adjusted": profile.is_known[places],
        "changed_at": points.minute[[each.at for each in changes]] * MINUTE_US,
        "before": before, "after": after, "change": moved[0], "change_low": moved[1], "change_high": moved[2],
        "z": np.round(z, 3), "threshold": np.round(threshold, 3),
        "false_alarms": count_false_alarms(z, threshold, context.budget),
        "only_type": pc.if_else(is_one, context.types.take(pa.array(places)), None),
        "verdict": np.where(after > before, "raised", "lowered"),
    })  # fmt: skip


def _build(found: Sequence[_Found], points: Points, names: pa.Table) -> pa.Table:
    """The columns of the table."""
    parts = [COLUMNS.empty_table()]
    for each in found:
        count = len(each.places)
        texts = names.take(pa.array(points.series[each.places]))
        values = each.columns | {
            "time_window_start": points.minute[each.places] * MINUTE_US, "level": texts["level"],
            "agent_id": pc.if_else(pc.equal(texts["level"], LEVELS[0]), texts["name"], None),
            "target_agent_type": pc.if_else(pc.equal(texts["level"], LEVELS[1]), texts["name"], None),
            "metric": [each.metric] * count, "kind": [each.kind] * count,
        }  # fmt: skip
        columns = [
            _cast(values[field.name], field.type) if field.name in values else pa.nulls(count, field.type)
            for field in COLUMNS
        ]
        parts.append(pa.table(columns, COLUMNS))
    return pa.concat_tables(parts)


def _cast(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values).cast(kind)


TABLE = DerivedTable(
    TRENDS,
    version=2,
    inputs=(
        Input("past_reports", timedelta(minutes=PAST)),
        Input("past_windows", timedelta(days=DAYS, hours=PAST // HOUR + 3)),
    ),
    sql=SQL,
    kernel=Kernel(
        compute_trends,
        settings=("trend_false_alarms",),
        modules=("scipy", "ruptures"),
        extra="analysis",
    ),
)
