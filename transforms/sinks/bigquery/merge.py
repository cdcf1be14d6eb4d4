"""The script that moves a batch of rows from its inbox into a table, in one transaction.

The transaction begins by changing the one row of the table's *turn*. A MERGE alone would not do: BigQuery
lets two of them run at once as long as both only insert, and so both would insert one key. Of two
transactions that change one table, BigQuery rolls one back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.kinds import KIND_OF_TABLE
from schemas.tables import DUPLICATES, MESSAGE, MESSAGE_KEY, Table
from transforms.sinks.row_merge import has_contents

ROW = "batch_row"
"""The column of an inbox beside those of its table: the number of the row."""


def turn_name(table: Table) -> str:
    """Return the name of the table of one row that each merge into `table` changes first."""
    return f"_kpiflow_turn_{table.name}"


@dataclass(frozen=True)
class Merge:
    """A batch of rows in the table `inbox` of `dataset` (PROJECT.DATASET), at most one a key.

    Of a table that has contents (`row_merge.has_contents`) it may have one a key and message. `on_days` is a
    condition on `t` that all rows of the table with these keys meet.
    """

    dataset: str
    table: Table
    inbox: str
    on_days: str

    def script(self) -> str:
        """Return the script; its result is the number of rows that are new or replace an older one."""
        turn = turn_name(self.table)
        wrong = f"{turn} must have one row; drop it and start the job"
        return f"""\
DECLARE has_turn BOOL;
DECLARE taken INT64;
DECLARE earliest, latest TIMESTAMP;
BEGIN TRANSACTION;
{self._take_turn(self.table)}
SET has_turn = (SELECT IF(COUNT(*) = 1, TRUE, ERROR('{wrong}')) FROM {self._quote(turn)});
{self._hold_contest()}
SET taken = (SELECT COUNT(*) FROM {self._contest} WHERE place = 1 AND {ROW} IS NOT NULL);
{self._displace() if has_contents(self.table) else ""}
IF taken > 0 THEN
{self._merge()}
END IF;
DROP TABLE {self._contest};
COMMIT TRANSACTION;
SELECT taken;
"""

    def _hold_contest(self) -> str:
        """Put new rows beside the stored rows with their keys; `place` 1 is the row that is kept."""
        columns = list(dict.fromkeys([*self.table.key, *(each.column for each in self.table.preferences)]))
        message = [name for name in MESSAGE_KEY if name in columns]
        winner = "".join(f", FIRST_VALUE({name}) OVER best AS won_{name}" for name in message)
        inbox = f"{self._quote(self.inbox)} AS s"
        return f"""\
CREATE TEMP TABLE {self._contest} AS
SELECT *, ROW_NUMBER() OVER best AS place{winner}
FROM (
  SELECT {_list(columns, "s.")}, s.{ROW} FROM {inbox}
  UNION ALL
  SELECT {_list(columns, "t.")}, CAST(NULL AS INT64) AS {ROW} FROM {self._quote(self.table.name)} AS t
  WHERE {self.on_days} AND EXISTS (SELECT 1 FROM {inbox} WHERE {_same_key(self.table)})
)
WINDOW best AS (PARTITION BY {_list(self.table.key)} ORDER BY {order_best_first(self.table)});"""

    def _merge(self) -> str:
        """Write the new rows that are kept."""
        names = self.table.schema.names
        changes = ", ".join(f"`{name}` = s.`{name}`" for name in names if name not in self.table.key)
        kept = f"{ROW} IN (SELECT {ROW} FROM {self._contest} WHERE place = 1)"
        return f"""\
MERGE {self._quote(self.table.name)} AS t
USING (SELECT * FROM {self._quote(self.inbox)} WHERE {kept}) AS s
ON {_same_key(self.table)} AND {self.on_days}
WHEN MATCHED THEN UPDATE SET {changes}
WHEN NOT MATCHED THEN INSERT ({_list(names)}) VALUES ({_list(names, "s.")});"""

    def _displace(self) -> str:
        """Write the messages whose report or record is another message's to the duplicates."""
        names = DUPLICATES.schema.names
        kind, content = KIND_OF_TABLE[self.table.name], ", ' ', ".join(self.table.key)
        given = {"kind": f"'{kind.schema}'", "record_id": "NULL", "report_id": "NULL", "revision": "1"}
        given["report_id" if kind.is_report else "record_id"] = "s.content"
        values = ", ".join(given.get(name, f"s.`{name}`") for name in names)
        message = _list([name for name, _ in MESSAGE])
        lost = f"{self._contest} WHERE source != won_source OR message_id != won_message_id"
        return f"""\
IF EXISTS (SELECT 1 FROM {lost}) THEN
  SET earliest = (SELECT MIN(received_at) FROM {lost});
  SET latest = (SELECT MAX(received_at) FROM {lost});
  {self._take_turn(DUPLICATES)}
  MERGE {self._quote(DUPLICATES.name)} AS t
  USING (
    SELECT {message}, CONCAT({content}) AS content FROM {lost}
    QUALIFY ROW_NUMBER() OVER (PARTITION BY source, message_id ORDER BY {_list(self.table.key)}) = 1
  ) AS s
  ON {_same_key(DUPLICATES)} AND (t.received_at BETWEEN earliest AND latest OR t.received_at IS NULL)
  WHEN NOT MATCHED THEN INSERT ({_list(names)}) VALUES ({values});
END IF;"""

    def _take_turn(self, table: Table) -> str:
        turn = self._quote(turn_name(table))
        return f"UPDATE {turn} SET merges = merges + 1, merged_at = CURRENT_TIMESTAMP() WHERE TRUE;"

    @property
    def _contest(self) -> str:
        return f"`{self.inbox}_contest`"

    def _quote(self, name: str) -> str:
        return f"`{self.dataset}.{name}`"


def _same_key(table: Table) -> str:
    return " AND ".join(f"t.`{name}` = s.`{name}`" for name in table.key)


def order_best_first(table: Table) -> str:
    """The rule `schemas.tables.KEPT_ROW` as SQL; stored rows, which have no number, before new ones."""
    terms = []
    for each in table.preferences:
        if each.is_text:
            terms.append(f"BYTE_LENGTH({each.column}) ASC NULLS FIRST")
        terms.append(f"{each.column} DESC" if each.largest else f"{each.column} ASC NULLS FIRST")
    return ", ".join([*terms, f"{ROW} ASC NULLS FIRST"])


def _list(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}`{name}`" for name in names)
