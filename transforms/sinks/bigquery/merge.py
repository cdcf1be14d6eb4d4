"""The script that moves a batch of rows from its inbox into a table, in one transaction.

The transaction begins by changing the one row of the table's *turn*. A MERGE alone would not do: BigQuery
lets two of them run at once as long as both only insert, and so both would insert one key. Of two
transactions that change one table, BigQuery rolls one back.
"""

from collections.abc import Sequence

from schemas.tables import DUPLICATES, REPORTS, Table

ROW = "batch_row"
"""The column of an inbox beside those of its table: the number of the row."""


def turn_name(table: Table) -> str:
    """Return the name of the table of one row that each merge into `table` changes first."""
    return f"_kpiflow_turn_{table.name}"


def merge_script(dataset: str, table: Table, inbox: str, on_days: str) -> str:
    """Return the script; its result is the number of rows that are new in the table or replace an older one.

    Args:
        dataset: PROJECT.DATASET. inbox: the table of the batch, with at most one row a key (of reports: a key
        and message); it is dropped. on_days: a condition on `t` that all stored rows with these keys meet.
    """
    into, source, turn = (f"`{dataset}.{name}`" for name in (table.name, inbox, turn_name(table)))
    contest = f"`{inbox}_contest`"
    identity = [each.column for each in table.preferences]
    contested = list(dict.fromkeys([*table.key, *identity]))
    message = [name for name in ("source", "message_id") if name in identity]
    winner = "".join(f", FIRST_VALUE({name}) OVER best AS won_{name}" for name in message)
    same_key = " AND ".join(f"t.`{name}` = s.`{name}`" for name in table.key)
    names = table.schema.names
    changes = ", ".join(f"`{name}` = s.`{name}`" for name in names if name not in table.key)
    return f"""\
DECLARE has_turn BOOL;
DECLARE taken INT64;
DECLARE earliest, latest TIMESTAMP;
BEGIN TRANSACTION;
{_take_turn(turn)}
SET has_turn = (
  SELECT IF(COUNT(*) = 1, TRUE, ERROR('{turn_name(table)} must have one row; drop it and start the job'))
  FROM {turn}
);
-- New rows beside the stored rows with their keys; `place` 1 is the row that is kept.
CREATE TEMP TABLE {contest} AS
SELECT *, ROW_NUMBER() OVER best AS place{winner}
FROM (
  SELECT {_list(contested, "s.")}, s.{ROW} FROM {source} AS s
  UNION ALL
  SELECT {_list(contested, "t.")}, CAST(NULL AS INT64) AS {ROW} FROM {into} AS t
  WHERE {on_days} AND EXISTS (SELECT 1 FROM {source} AS s WHERE {same_key})
)
WINDOW best AS (PARTITION BY {_list(table.key)} ORDER BY {_order_best_first(table)});
SET taken = (SELECT COUNT(*) FROM {contest} WHERE place = 1 AND {ROW} IS NOT NULL);
{_displace(dataset, contest) if table.name == REPORTS.name else ""}
IF taken > 0 THEN
  MERGE {into} AS t
  USING (SELECT * FROM {source} WHERE {ROW} IN (SELECT {ROW} FROM {contest} WHERE place = 1)) AS s
  ON {same_key} AND {on_days}
  WHEN MATCHED THEN UPDATE SET {changes}
  WHEN NOT MATCHED THEN INSERT ({_list(names)}) VALUES ({_list(names, "s.")});
END IF;
DROP TABLE {contest};
COMMIT TRANSACTION;
SELECT taken;
"""


def _displace(dataset: str, contest: str) -> str:
    """Put the messages whose report is another message's into the duplicates."""
    names = DUPLICATES.schema.names
    values = ", ".join("1" if name == "revision" else f"s.`{name}`" for name in names)
    same_key = " AND ".join(f"t.`{name}` = s.`{name}`" for name in DUPLICATES.key)
    lost = f"{contest} WHERE source != won_source OR message_id != won_message_id"
    return f"""\
IF EXISTS (SELECT 1 FROM {lost}) THEN
  SET earliest = (SELECT MIN(received_at) FROM {lost});
  SET latest = (SELECT MAX(received_at) FROM {lost});
  {_take_turn(f"`{dataset}.{turn_name(DUPLICATES)}`")}
  MERGE `{dataset}.{DUPLICATES.name}` AS t
  USING (
    SELECT source, message_id, received_at, report_id FROM {lost}
    QUALIFY ROW_NUMBER() OVER (PARTITION BY source, message_id ORDER BY report_id) = 1
  ) AS s
  ON {same_key} AND (t.received_at BETWEEN earliest AND latest OR t.received_at IS NULL)
  WHEN NOT MATCHED THEN INSERT ({_list(names)}) VALUES ({values});
END IF;"""


def _take_turn(turn: str) -> str:
    return f"UPDATE {turn} SET merges = merges + 1, merged_at = CURRENT_TIMESTAMP() WHERE TRUE;"


def _order_best_first(table: Table) -> str:
    """The rule `schemas.tables.KEPT_ROW` as SQL; stored rows, which have no number, before new ones."""
    terms = []
    for each in table.preferences:
        if each.is_text:
            terms.append(f"BYTE_LENGTH({each.column}) ASC NULLS FIRST")
        terms.append(f"{each.column} DESC" if each.largest else f"{each.column} ASC NULLS FIRST")
    return ", ".join([*terms, f"{ROW} ASC NULLS FIRST"])


def _list(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}`{name}`" for name in names)
