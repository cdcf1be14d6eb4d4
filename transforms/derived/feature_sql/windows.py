"""Trends and workload: sums over the reports of an agent in the minutes [m - 62, m - 2)."""

from transforms.derived.feature_sql.arithmetic import SCALE, fix

LATENCY, ACCURACY, SCORE = (fix(name) for name in ("latency_ms", "accuracy", "performance_score"))
FRAME = "PARTITION BY agent ORDER BY minute RANGE BETWEEN"
SHORTEST_USUAL = 10


def fit_line(n: str, x: str, xx: str, y: str, yy: str, xy: str) -> tuple[str, str]:
    """Slope and standard error of least squares, from sums that are whole numbers; null without a line."""
    spread = f"({n} * {xx} - {x} * {x})"
    product = f"({n} * {xy} - {x} * {y})::DOUBLE"
    residual = f"greatest(0, ({n} * {yy} - {y} * {y})::DOUBLE - {product} * {product} / {spread}::DOUBLE)"
    exists = f"{n} >= 3 AND {spread} > 0"
    slope = f"CASE WHEN {exists} THEN {product} / {spread}::DOUBLE END"
    error = f"CASE WHEN {exists} THEN sqrt({residual} / (({n} - 2)::DOUBLE * {spread}::DOUBLE)) END"
    return slope, error


def _fit_trends() -> str:
    """The columns of the three trends, from the sums of `windows`."""
    latency = fit_line("n", "x", "xx", "latency", "latency2", "x_latency")
    accuracy = fit_line("n", "x", "xx", "accuracy", "accuracy2", "x_accuracy")
    # Of the minutes after the first one with a report, sums of x and x^2 are those of whole numbers.
    minutes = "(minute - 3 - first.minute)"
    throughput = fit_line(minutes, "after_x", "after_xx", "after_y", "after_yy", "after_xy")
    named = {
        "latency_trend": f"{latency[0]} / {SCALE}",
        "latency_trend_se": f"{latency[1]} / {SCALE}",
        "accuracy_trend": f"{accuracy[0]} / {SCALE}",
        "accuracy_trend_se": f"{accuracy[1]} / {SCALE}",
        "throughput_trend": throughput[0],
        "throughput_trend_se": throughput[1],
    }
    return ", ".join(f"{text} AS {name}" for name, text in named.items())


QUERIES = {
    # The reports of each agent and minute that feed; n is 0 where only others were recorded.
    "minutes": f"""
        SELECT agent, minute, count(*) FILTER (feeds)::HUGEINT AS n,
            coalesce(sum({LATENCY}) FILTER (feeds), 0) AS latency,
            coalesce(sum({LATENCY}::HUGEINT * {LATENCY}) FILTER (feeds), 0) AS latency2,
            coalesce(sum({ACCURACY}) FILTER (feeds), 0) AS accuracy,
            coalesce(sum({ACCURACY} * {ACCURACY}) FILTER (feeds), 0) AS accuracy2,
            coalesce(sum({SCORE}) FILTER (feeds), 0) AS score,
            coalesce(sum({SCORE} * {SCORE}) FILTER (feeds), 0) AS score2
        FROM past GROUP BY agent, minute""",
    "sums": f"""
        SELECT agent, minute,
            sum(n) OVER past AS n, sum(n * minute) OVER past AS x, sum(n * minute * minute) OVER past AS xx,
            sum(latency) OVER past AS latency, sum(latency2) OVER past AS latency2,
            sum(minute * latency) OVER past AS x_latency,
            sum(accuracy) OVER past AS accuracy, sum(accuracy2) OVER past AS accuracy2,
            sum(minute * accuracy) OVER past AS x_accuracy,
            sum(score) OVER past AS score, sum(score2) OVER past AS score2, sum(n * n) OVER past AS nn,
            first_value(CASE WHEN n > 0 THEN {{'minute': minute, 'n': n, 'latency': latency}} END
                IGNORE NULLS) OVER past AS first,
            coalesce(sum(latency) OVER past_five, 0) AS recent
        FROM minutes
        WINDOW past AS ({FRAME} 62 PRECEDING AND 3 PRECEDING),
            past_five AS ({FRAME} 7 PRECEDING AND 3 PRECEDING)""",
    # Of the minutes after the first one that has a report: the numbers a..b have sum (b - a + 1)(a + b) / 2.
    "after_first": """
        SELECT *, (minute - 3)::HUGEINT AS b, first.minute::HUGEINT AS a,
            (b - a) * (a + 1 + b) // 2 AS after_x,
            (b * (b + 1) * (2 * b + 1) - a * (a + 1) * (2 * a + 1)) // 6 AS after_xx,
            n - first.n AS after_y, nn - first.n * first.n AS after_yy,
            x - first.n * first.minute AS after_xy,
            latency - first.latency - recent AS usual, minute - 8 - first.minute AS usual_minutes
        FROM sums WHERE n > 0""",
    # The workload as one quotient of whole numbers: a value that is a bound of its level is exactly that.
    "windows": f"""
        SELECT agent, minute, n AS trend_n, minute - 3 - first.minute AS throughput_trend_n, score, score2,
            CASE WHEN usual_minutes >= {SHORTEST_USUAL} AND latency > 0 THEN
                ((recent * n + latency) * usual_minutes)::DOUBLE
                / (5 * usual * n + latency * usual_minutes)::DOUBLE END AS workload,
            {_fit_trends()}
        FROM after_first""",
}
