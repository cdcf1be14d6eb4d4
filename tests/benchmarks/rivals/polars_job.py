"""The job of `kpiflow backfill` in Polars, with kpiflow's default settings.

Columns judge what they can; the few rows that they cannot decide go through `strict`, one by one.

    python -m tests.benchmarks.rivals.polars_job FOLDER --output FOLDER
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.benchmarks.rivals import strict
from tests.benchmarks.rivals.timed import main

TIME = pl.Datetime("us", "UTC")
CONTEXT: dict[str, pl.DataType | type[pl.DataType]] = {
    "hostname": pl.String, "available_cores": pl.Float64, "available_memory_mb": pl.Float64,
    "network_interfaces": pl.List(pl.String),
}  # fmt: skip
DATA: dict[str, pl.DataType | type[pl.DataType]] = {
    "task_id": pl.String, "agent_id": pl.String, "latency_ms": pl.Float64, "accuracy": pl.Float64,
    "cpu_usage": pl.Float64,
    "memory_mb": pl.Float64, "network_bytes": pl.Float64, "recorded_at": pl.String,
    "execution_context": pl.Struct(CONTEXT),
    "gpu_utilization": pl.Float64, "source_layer": pl.String, "target_agent_type": pl.String,
    "priority": pl.Float64,
}  # fmt: skip
ENVELOPE: dict[str, pl.DataType | type[pl.DataType]] = {
    "message_id": pl.String,
    "received_at": pl.String,
    "data": pl.Struct(DATA),
}
OPEN = ("gpu_info", "custom_metrics", "error_details")
"""Places that may hold names of their own, which Polars has no type for: kept as canonical JSON text."""
TEXTS = ("task_id", "agent_id", "recorded_at", "source_layer", "target_agent_type", "hostname")
OTHERS = (
    "latency_ms", "accuracy", "cpu_usage", "memory_mb", "network_bytes", "gpu_utilization", "priority",
    "available_cores",
    "available_memory_mb", "network_interfaces", *OPEN,
)  # fmt: skip
GIVEN = rf'"(?:{"|".join(TEXTS)})"\s*:\s*"|"(?:execution_context|{"|".join(OTHERS)})"\s*:\s*[^n\s]'
"""A name of the schema with a value of about the right type that is not null."""
INTERFACES = r'"network_interfaces"\s*:\s*\[\s*(?:"[^"\\]*"\s*,\s*)*"[^"\\]*"\s*\]'
TEXT = r'"data"\s*:\s*(.*)\}\s*$'
COLUMNS = (*TEXTS, *OTHERS)
METRICS = {"latency": "latency_ms", "accuracy": "accuracy", "cpu": "cpu_usage", "memory": "memory_mb"}
QUARTILES = {"q1": 0.25, "q3": 0.75}
GRANULARITIES = ("5s", "1m", "1h")


def read(source: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The valid reports of the archives, without regard to time, and the others with their reasons."""
    files = sorted(source.glob("*.ndjson"))
    typed = (
        pl.scan_ndjson(files, schema=ENVELOPE, ignore_errors=True).unnest("data").unnest("execution_context")
    )
    opened = [pl.col("line").str.extract(rf'"{name}"\s*:\s*(\{{[^{{}}]*\}})').alias(name) for name in OPEN]
    frame = (
        pl.concat([pl.scan_lines(files), typed], how="horizontal")
        .with_columns(opened)
        .collect(engine="streaming")
    )
    for name in OPEN:
        frame = canonical(frame, name, strict.metrics if name == "custom_metrics" else strict.flat)
    frame = frame.with_columns(moment("recorded_at").alias("moment"), moment("received_at").alias("received"))
    frame = frame.with_columns(plain().alias("plain"))
    accepted = (
        frame.filter("plain").drop("plain", "recorded_at", "received_at").rename({"moment": "recorded_at"})
    )
    accepted = accepted.rename({"received": "received_at"})
    return judged(accepted, frame.filter(~pl.col("plain"))["line"].to_list())


def canonical(frame: pl.DataFrame, name: str, spell: Callable[[str], str | None]) -> pl.DataFrame:
    """The frame with the column's texts spelt in one way; each different text is spelt once."""
    texts = frame[name].drop_nulls().unique()
    spelt = pl.DataFrame(
        {name: texts, "spelt": [spell(text) for text in texts]}, schema={name: pl.String, "spelt": pl.String}
    )
    return frame.join(spelt, on=name, how="left", maintain_order="left").drop(name).rename({"spelt": name})


def moment(name: str) -> pl.Expr:
    """The time of an RFC 3339 text; null where there is none."""
    spelt = pl.col(name).str.contains(f"^{strict.TIME}$")
    return pl.when(spelt).then(
        pl.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    )


def plain() -> pl.Expr:
    """Whether a row is valid for certain: every rule holds, and its line names each value that the columns
    hold exactly once."""
    named = pl.sum_horizontal(pl.col(name).is_not_null().cast(pl.UInt32) for name in COLUMNS) + 1
    within = pl.sum_horizontal(pl.col(name).str.count_matches(GIVEN).fill_null(0) for name in OPEN)
    rules = [
        pl.col("line").str.count_matches(GIVEN) == named + within,
        pl.col("line").str.count_matches(r"[\[{]") <= strict.DEPTH,
        pl.col("received").is_not_null() & pl.col("moment").is_not_null(),
        *(pl.col(name).str.contains(f"^{strict.UUID}$") for name in ("task_id", "agent_id")),
        (pl.col("latency_ms") > 0) & (pl.col("latency_ms") < 300_000),
        *(pl.col(name).is_between(0, 1) for name in ("accuracy", "cpu_usage")),
        (pl.col("memory_mb") > 0) & (pl.col("memory_mb") < 1_000_000),
        pl.col("hostname").str.len_chars().is_between(1, 253),
        pl.col("available_cores").is_between(1, 65536)
        & (pl.col("available_cores") == pl.col("available_cores").floor()),
        pl.col("available_memory_mb").is_between(0, 1e9, closed="right"),
        optional("network_bytes", pl.col("network_bytes").is_between(0, 1e12, closed="left")),
        optional("network_bytes", pl.col("network_bytes") == pl.col("network_bytes").floor()),
        optional("gpu_utilization", pl.col("gpu_utilization").is_between(0, 1)),
        optional("priority", pl.col("priority").is_in([1.0, 25.0, 50.0, 75.0, 100.0])),
        *(
            optional(name, pl.col(name).str.len_chars() <= 100)
            for name in ("source_layer", "target_agent_type")
        ),
        optional("network_interfaces", pl.col("line").str.contains(INTERFACES)),
    ]
    return pl.all_horizontal(rules).fill_null(False)


def optional(name: str, rule: pl.Expr) -> pl.Expr:
    """The rule, where there is a value."""
    return pl.col(name).is_null() | rule


def judged(accepted: pl.DataFrame, lines: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The accepted rows and what `strict` makes of the lines; what is stale or early is refused last."""
    verdicts = [strict.judge(line) for line in lines]
    refused = [{**row, "payload": payload, "reason": reason} for reason, payload, row in verdicts if reason]
    schema = {name: type_ if type_ != TIME else pl.String for name, type_ in accepted.schema.items()}
    rows = [row | {"line": line} for line, (reason, _, row) in zip(lines, verdicts) if not reason]
    late = pl.DataFrame(rows, schema=schema).with_columns(
        moment(name) for name in ("received_at", "recorded_at")
    )
    reports = pl.concat([accepted, late])
    lag = pl.col("received_at") - pl.col("recorded_at")
    reason = (
        pl.when(lag > pl.duration(hours=1))
        .then(pl.lit("stale"))
        .when(lag < pl.duration(seconds=-60))
        .then(pl.lit("future"))
    )
    reports = reports.with_columns(reason.alias("reason"))
    wrong = {"message_id": pl.String, "received_at": pl.String, "payload": pl.String, "reason": pl.String}
    untimely = reports.filter(pl.col("reason").is_not_null())
    untimely = untimely.select(
        "message_id", "received_at", pl.col("line").str.extract(TEXT).alias("payload"), "reason"
    )
    quarantine = pl.concat(
        [pl.DataFrame(refused, schema=wrong).with_columns(moment("received_at")), untimely]
    )
    return reports.filter(pl.col("reason").is_null()).drop("line", "reason"), quarantine


def dedup(reports: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Each report once, by its earliest message, and the other messages."""
    content = [name for name in reports.columns if name not in ("message_id", "received_at")]
    reports = reports.with_columns(pl.col("task_id", "agent_id").str.to_lowercase())
    reports = reports.with_columns(pl.struct(content).hash().alias("content")).with_row_index("place")
    several = reports.select("place", "content", "message_id", "received_at").filter(
        pl.col("content").is_duplicated()
    )
    order = ["received_at", pl.col("message_id").str.len_bytes(), "message_id"]
    copies = several.sort(order, nulls_last=False).filter(~pl.col("content").is_first_distinct())
    return reports.join(copies, on="place", how="anti").drop("place", "content"), copies.drop(
        "place", "content"
    )


def baselines(reports: pl.DataFrame) -> pl.DataFrame:
    """The quartiles of each agent and minute m over its reports of the minutes [m - 62, m - 2) that came in
    time.

    A rolling window ends at the row that asks. So the minutes that ask lie among the reports as empty rows,
    and the reports three minutes later than they are.
    """
    minute = pl.col("recorded_at").dt.truncate("1m")
    feeds = (pl.col("received_at") - pl.col("recorded_at") <= pl.duration(seconds=60)).fill_null(True)
    values = reports.filter(feeds).select(
        "agent_id", *METRICS.values(), at=minute.dt.offset_by("3m"), asks=False
    )
    asking = reports.select("agent_id", at=minute, asks=True).unique()
    rows = pl.concat([values, asking], how="diagonal").sort("agent_id", "at", "asks")

    def rolled(column: str, quantile: float) -> pl.Expr:
        return pl.col(column).rolling_quantile_by(
            "at", "60m", min_samples=1, quantile=quantile, interpolation="equiprobable"
        )

    wanted = {
        f"{metric}_{name}": rolled(column, at)
        for metric, column in METRICS.items()
        for name, at in QUARTILES.items()
    }
    wanted["latency_median"] = rolled("latency_ms", 0.5)
    wanted["baseline_n"] = (~pl.col("asks")).cast(pl.Int64).rolling_sum_by("at", "60m")
    columns = {name: window.over("agent_id") for name, window in wanted.items()}
    return (
        rows.select("agent_id", "asks", pl.col("at").alias("minute"), **columns).filter("asks").drop("asks")
    )


def flagged(reports: pl.LazyFrame) -> pl.LazyFrame:
    """Fences k = 3 interquartile ranges outside the quartiles, where both are equal a tenth away; and what
    lies beyond them."""
    warm = pl.col("baseline_n") >= 30
    quartiles = [f"{metric}_{name}" for metric in METRICS for name in QUARTILES] + ["latency_median"]
    reports = reports.with_columns(pl.when(warm).then(pl.col(quartiles)))
    fences, states, outliers = [], [], []
    for metric, column in METRICS.items():
        q1, q3 = pl.col(f"{metric}_q1"), pl.col(f"{metric}_q3")
        margin = 0.1 * q1 if metric in ("latency", "memory") else pl.lit(0.1)
        reach = pl.when(q1 == q3).then(margin).otherwise(3 * (q3 - q1))
        fences += [(q1 - reach).alias(f"{metric}_low_fence"), (q3 + reach).alias(f"{metric}_high_fence")]
        state = (
            pl.when(~warm)
            .then(pl.lit("warmup"))
            .when(q1 == q3)
            .then(pl.lit("flat"))
            .otherwise(pl.lit("ready"))
        )
        states.append(state.alias(f"{metric}_baseline_state"))
        outside = beyond(column, f"{metric}_low_fence", below=True) | beyond(column, f"{metric}_high_fence")
        outliers.append(outside.alias(f"is_{metric}_outlier"))
    anomalies = {
        "is_latency_anomaly": beyond("latency_ms", "latency_high_fence"),
        "is_accuracy_anomaly": beyond("accuracy", "accuracy_low_fence", below=True),
        "is_resource_anomaly": beyond("cpu_usage", "cpu_high_fence")
        | beyond("memory_mb", "memory_high_fence"),
    }
    sigma = (pl.col("latency_q3") - pl.col("latency_q1")) / 1.349
    zscore = pl.when(sigma > 0).then((pl.col("latency_ms") - pl.col("latency_median")) / sigma)
    return (
        reports.with_columns(*fences, *states, latency_zscore=zscore)
        .with_columns(*outliers, **anomalies)
        .drop("latency_median")
    )


def beyond(column: str, fence: str, below: bool = False) -> pl.Expr:
    """Whether a value is outside a fence; without one, not."""
    outside = pl.col(column) < pl.col(fence) if below else pl.col(column) > pl.col(fence)
    return outside.fill_null(False)


def enriched(reports: pl.LazyFrame) -> pl.LazyFrame:
    """What follows from a report alone."""
    seconds, moved = pl.col("latency_ms") / 1000, pl.col("network_bytes") / 1e6
    memory = pl.min_horizontal(pl.lit(1.0), pl.col("memory_mb") / pl.col("available_memory_mb"))
    use, score = (pl.col("cpu_usage") + memory) / 2, pl.col("accuracy") * 1000 / (1000 + pl.col("latency_ms"))
    hour, day = (
        part.cast(pl.Int32) for part in (pl.col("recorded_at").dt.hour(), pl.col("recorded_at").dt.weekday())
    )
    return reports.with_columns(
        performance_score=score,
        efficiency_ratio=pl.when(use > 0).then(score / use),
        resource_efficiency=pl.col("accuracy") * (1 - use),
        cpu_efficiency=1 / (1 + pl.col("cpu_usage") * seconds),
        memory_efficiency=1 / (1 + pl.col("memory_mb") / 1000 * seconds),
        network_efficiency=1 / (1 + moved),
        hour_of_day=hour,
        day_of_week=day,
        is_peak_hour=(day <= 5) & (hour >= 9) & (hour < 17),
    )


def aggregated(reports: pl.LazyFrame, granularity: str) -> pl.LazyFrame:
    """The windows of one length, by agent."""
    latency = pl.col("latency_ms")
    points = {
        f"latency_p{p}_ms": latency.quantile(p / 100, interpolation="equiprobable") for p in (50, 95, 99)
    }
    means = {
        "avg_latency_ms": "latency_ms",
        "avg_accuracy": "accuracy",
        "avg_cpu_usage": "cpu_usage",
        "avg_memory_mb": "memory_mb",
    }
    means |= {name: name for name in ("performance_score", "efficiency_ratio")}
    start, moved = pl.col("recorded_at").dt.truncate(granularity), pl.col("network_bytes")
    rows = reports.group_by("agent_id", start.alias("time_window_start")).agg(
        target_agent_type=pl.col("target_agent_type").min(),
        task_count=pl.len().cast(pl.Int64),
        success_rate=pl.col("error_details").is_null().mean(),
        latency_stddev=latency.std(),
        min_latency_ms=latency.min(),
        max_latency_ms=latency.max(),
        accuracy_stddev=pl.col("accuracy").std(),
        total_network_bytes=pl.when(moved.is_not_null().any()).then(moved.sum()),
        revision=(1 + pl.col("baseline_n")).sum(),
        **points,
        **{name: pl.col(column).mean() for name, column in means.items()},
        **{
            f"{metric}_outlier_count": pl.col(f"is_{metric}_outlier").sum().cast(pl.Int64)
            for metric in METRICS
        },
    )
    end = pl.col("time_window_start").dt.offset_by(granularity)
    return rows.select(pl.lit(granularity).alias("granularity"), pl.all(), end.alias("time_window_end"))


def run(source: Path, output: Path) -> None:
    """Each table of the archives in `source` as one Parquet file in `output`."""
    valid, quarantine = read(source)
    reports, duplicates = dedup(valid)
    fed = baselines(reports)
    whole = reports.lazy().with_columns(pl.col("network_bytes", "priority", "available_cores").cast(pl.Int64))
    minute = pl.col("recorded_at").dt.truncate("1m").alias("minute")
    judged_by = (
        whole.with_columns(minute).join(fed.lazy(), on=["agent_id", "minute"], how="left").drop("minute")
    )
    context = pl.struct(strict.CONTEXT).alias("execution_context")
    said = {
        "source": pl.lit("archive"),
        "schema_version": pl.lit(1, pl.Int64),
        "revision": pl.col("baseline_n"),
    }
    finished = enriched(flagged(judged_by)).with_columns(context, **said).drop(strict.CONTEXT)
    finished = finished.collect(engine="streaming").lazy()
    windows = pl.concat([aggregated(finished, name) for name in GRANULARITIES])
    tables = {"kpi_reports": finished, "kpi_aggregations": windows}
    tables |= {"quarantine": quarantine.lazy(), "duplicates": duplicates.lazy()}
    sinks = [
        rows.sink_parquet(output / f"{name}.parquet", compression="zstd", lazy=True)
        for name, rows in tables.items()
    ]
    pl.collect_all(sinks, engine="streaming")


if __name__ == "__main__":
    main(run, __doc__)
