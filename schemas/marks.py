"""Marks: what people say of flagged values. They are no messages: no job makes, moves or compares them."""

import pyarrow as pa

from schemas.readers.formats import TIME
from schemas.tables import METRIC_COLUMNS, OUTLIER_FLAGS, Table

VERDICTS = ("verified", "false")
"""The value is right, although it is far from the others; or the report is wrong."""
LONGEST_NOTE = 500
FLAGS = {column: OUTLIER_FLAGS[metric] for metric, column in METRIC_COLUMNS.items()}
"""The columns of REPORTS whose values can be marked, and the flag of each."""

MARKS = Table(
    "marks",
    pa.schema(
        [
            ("marked_at", TIME),  # of each mark another one
            ("report_id", pa.string()),
            ("column", pa.string()),
            ("verdict", pa.string()),
            ("note", pa.string()),
            ("marked_by", pa.string()),  # the subject, as the audit calls it
            ("value", pa.float64()),  # as it was when it was marked
            ("agent_id", pa.string()),
            ("task_id", pa.string()),
            ("recorded_at", TIME),
            ("replaces", TIME),  # marked_at of the mark before it, of the same value
        ]
    ),
    key=("marked_at",),
    order=("marked_at",),
    time="marked_at",
)
