"""The tables that decide the fates of messages, and the keys that rows of duplicates repeat."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from schemas.kinds import KINDS
from schemas.tables import DUPLICATES, QUARANTINED

FATES = (*(kind.table for kind in KINDS.values()), DUPLICATES, QUARANTINED)
"""The tables that decide the fate of a message: one for each kind, then the two that have all kinds. A
message in several of them has the fate of the first."""
REPEATED = ("kind", "record_id", "report_id")
"""The columns of DUPLICATES that say which report or record a message repeats."""


def read_repeated_keys(duplicates: pa.RecordBatch) -> pa.Array:
    """string[n]: the key of the report or record that each row of DUPLICATES (REPEATED) repeats.

    `transforms.sinks.row_merge.format_keys` gives the keys of stored rows in the same form.
    """
    return pc.coalesce(duplicates["report_id"], duplicates["record_id"])


def split_stored_kinds(rows: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each kind, from rows with a column `kind`."""
    kinds = pc.unique(rows["kind"]).to_pylist()
    for kind in kinds:
        yield kind, rows if len(kinds) == 1 else rows.filter(pc.equal(rows["kind"], kind))
