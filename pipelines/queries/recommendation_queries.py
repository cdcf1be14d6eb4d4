"""The query of recommendations: which of them count, and what was seen after each."""

import pyarrow as pa

from pipelines.queries.query import Order, Parameter, ParameterKind, Query, QueryInput
from schemas.readers.formats import TIME
from transforms.derived.recommendations import RECOMMENDATIONS as TABLE

ADOPT_VARIANT = "adopt_variant"
"""The rule whose rows are not in the table: experiments are compared when one asks."""

RECOMMENDATIONS = Query(
    "recommendations",
    "what could be changed and why, with what was seen after, newest first",
    (QueryInput("recommendations", TABLE),),
    """
SELECT * FROM (
    SELECT *, lead(decided_at) OVER later AS followed_at, lead(state) OVER later AS followed_by
    FROM recommendations
    WINDOW later AS (PARTITION BY rule, subject ORDER BY decided_at)
)
WHERE $state = 'all'
    OR (followed_at IS NULL AND state <> 'ended' AND expires_at > coalesce($at::TIMESTAMPTZ, now()))""",
    pa.schema([*TABLE.schema, ("followed_at", TIME), ("followed_by", pa.string())]),
    # Not by decided_at first: a page reads nothing newer than its cursor then, and misses what came later.
    (Order("since", True), Order("decided_at", True), Order("rule"), Order("subject")),
    (
        Parameter(
            "state", "those that count at a time, or all rows", choices=("open", "all"), default="open"
        ),
        Parameter("at", "the time at which they count; now unless given", kind=ParameterKind.TIME),
        Parameter("rule", "only this rule", "rule = $rule"),
        Parameter("subject", "only this agent type, agent, priority or source", "subject = $subject"),
    ),
)
"""`open`: no later row of the rule and the subject is there, it has not ended, and has not expired."""
