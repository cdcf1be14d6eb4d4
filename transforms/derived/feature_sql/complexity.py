"""The latency that is expected of a task, by least squares over the 24 hours before.

Everything about a fit is a small matrix: the sums of the products of z0 = 1, x1 .. x11 (the regressors) and
z12 = y. The table `task_sums` has them by minute and type of task. Here they are added up, and the normal
equations of each hour are solved.
"""

from transforms.core.time_units import HOUR_US
from transforms.derived.feature_sql.arithmetic import SCALE, divide

FIT_HOURS = 24
RIDGE = 0.001
REGRESSORS = (
    "ln(1 + coalesce(payload_bytes, 0))",
    "(max_cpu_cores IS NOT NULL)::DOUBLE",
    "coalesce(ln(max_cpu_cores), 0)",
    "coalesce(ln(1 + max_memory_mb), 0)",
    "coalesce(ln(1 + max_execution_time_secs), 0)",
    "(max_network_mbps IS NOT NULL)::DOUBLE",
    "coalesce(ln(1 + max_network_mbps), 0)",
    "(priority IS NOT DISTINCT FROM 25)::DOUBLE",
    "(priority IS NOT DISTINCT FROM 50)::DOUBLE",
    "(priority IS NOT DISTINCT FROM 75)::DOUBLE",
    "(priority IS NOT DISTINCT FROM 100)::DOUBLE",
)
_P = len(REGRESSORS)
_Y = _P + 1
_WIDTH = _P + 1
"""Columns of the normal equations: the matrix, and the right-hand side."""

PRODUCTS = [(j, k) for j in range(_Y + 1) for k in range(j, _Y + 1)]
"""The places of the sums in a row of `task_sums`."""
_PLACES = ", ".join(f"{{'j': {j}, 'k': {k}}}" for j, k in PRODUCTS)
_PREDICTION = " + ".join(f"coefficients[{place}] * {text}" for place, text in enumerate(REGRESSORS, 1))

QUERIES = {
    "fit_hours": "SELECT DISTINCT settled FROM known WHERE NOT early",
    "task_hours": f"""
        SELECT {divide("epoch_us(time_window_start)", HOUR_US)} AS hour, target_agent_type AS task_type,
            task_count, low, high, string_split(sums, ' ')::HUGEINT[] AS sums
        FROM task_sums""",
    "fit_ranges": f"""
        SELECT settled, sum(task_count) AS n, min(low) AS low, max(high) AS high
        FROM fit_hours JOIN (SELECT hour, sum(task_count) AS task_count, min(low) AS low, max(high) AS high
            FROM task_hours GROUP BY hour) hours ON hour >= settled - {FIT_HOURS} AND hour < settled
        GROUP BY settled""",
    # The matrix of each hour and type, an element a row.
    "hour_sums": f"""
        SELECT hour, task_type, j, k, sum(value) AS value
        FROM (SELECT hour, task_type, unnest([{_PLACES}], recursive := true), unnest(sums) AS value
              FROM task_hours)
        GROUP BY ALL""",
    "type_sums": f"""
        SELECT settled, task_type, j, k, sum(value) AS value
        FROM fit_hours JOIN hour_sums ON hour >= settled - {FIT_HOURS} AND hour < settled
        GROUP BY ALL""",
    "gram": """
        SELECT * FROM type_sums
        UNION ALL SELECT settled, task_type, k, j, value FROM type_sums WHERE j < k""",
    "ones": "SELECT settled, task_type, k, value FROM gram WHERE j = 0",
    # Sums of products around the means of each type, added over the types.
    "within_types": """
        SELECT gram.settled, gram.j, gram.k, sum(gram.value - a.value * b.value // n.value) AS value
        FROM gram
        JOIN ones a ON a.settled = gram.settled AND a.task_type = gram.task_type AND a.k = gram.j
        JOIN ones b ON b.settled = gram.settled AND b.task_type = gram.task_type AND b.k = gram.k
        JOIN ones n ON n.settled = gram.settled AND n.task_type = gram.task_type AND n.k = 0
        WHERE gram.j > 0 AND gram.k > 0
        GROUP BY ALL""",
    "deviations": """
        SELECT settled, j AS k, sqrt(value::DOUBLE) AS s FROM within_types WHERE j = k""",
    # As correlations, with the ridge; what is constant has a row and a column of zeros.
    "correlations": f"""
        SELECT settled, j, w.k,
            CASE WHEN a.s > 0 AND b.s > 0 THEN value::DOUBLE / (a.s * b.s) ELSE 0 END
            + CASE WHEN j = w.k THEN CASE WHEN a.s > 0 THEN {RIDGE} ELSE 1 END ELSE 0 END AS value
        FROM within_types w JOIN deviations b USING (settled, k)
        JOIN (SELECT settled, k AS j, s FROM deviations) a USING (settled, j)
        WHERE j < {_Y}""",
    "equations": """
        SELECT settled, list(value ORDER BY j, k) AS m FROM correlations GROUP BY settled""",
    # Gauss and Jordan, a column a step. No pivot is below the ridge, so no rows are exchanged.
    "elimination": f"""
        SELECT settled, 1 AS step, m FROM equations
        UNION ALL
        SELECT settled, step + 1, list_transform(range({_P * _WIDTH}), lambda i:
            CASE WHEN i // {_WIDTH} + 1 = step THEN m[i + 1] / m[{_WIDTH} * (step - 1) + step]
            ELSE m[i + 1] - m[i // {_WIDTH} * {_WIDTH} + step] * m[{_WIDTH} * (step - 1) + i % {_WIDTH} + 1]
                / m[{_WIDTH} * (step - 1) + step] END)
        FROM elimination WHERE step <= {_P}""",
    "scales": "SELECT settled, list(s ORDER BY k) AS s FROM deviations GROUP BY settled",
    "coefficients": f"""
        SELECT settled, list_transform(range(1, {_Y}), lambda j: CASE WHEN s[j] > 0
            THEN m[{_WIDTH} * j] * s[{_Y}] / s[j] ELSE 0 END) AS coefficients
        FROM elimination JOIN scales USING (settled) WHERE step = {_Y}""",
    # The intercept of each type, and of all (type null): mean y, less what the mean regressors explain.
    "means": """
        SELECT settled, task_type, list(value ORDER BY k) AS sums
        FROM (SELECT settled, task_type, k, value FROM ones
              UNION ALL SELECT settled, NULL, k, sum(value) FROM ones GROUP BY settled, k)
        GROUP BY settled, task_type""",
    "intercepts": f"""
        SELECT settled, task_type, (sums[{_Y + 1}]::DOUBLE - list_inner_product(coefficients,
            list_transform(sums[2:{_Y}], lambda x: x::DOUBLE))) / (sums[1]::DOUBLE * {SCALE}) AS intercept
        FROM means JOIN coefficients USING (settled)""",
    "fits": """
        SELECT settled, n, low, high, coefficients, intercept
        FROM fit_ranges JOIN coefficients USING (settled) JOIN intercepts USING (settled)
        WHERE task_type IS NULL""",
}

SCORE = (
    f"""exp(greatest(fits.low, least(fits.high, coalesce(own.intercept, fits.intercept) + {_PREDICTION})))"""
)
"""Of a report with a task, from its fit `fits` and the intercept of its type, `own`."""
