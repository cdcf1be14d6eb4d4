"""The statements by which a batch of rows moves from a table's inbox into the table.

All of a batch is one transaction, and it begins by changing the one row of the table's *turn*. A MERGE alone would not do: BigQuery
lets two of them run at once as long as both only insert, and so both would insert one key. Two transactions that change
one row cannot both commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import dedent

import pyarrow as pa

from schemas.tables import DUPLICATES, REPORTS, Table
from transforms.sinks.bigquery.errors import MISSING

ROW, BATCH, BATCH_AT = "batch_row", "batch", "batch_at"
"""Columns of an inbox beside those of its table: a row's number in its batch, the batch, and when it was begun."""


@dataclass(frozen=True)
class Names:
    """The tables of a dataset, each quoted for SQL."""

    project: str
    dataset: str

    def of(self, name: str) -> str:
        return f"`{self.project}.{self.dataset}.{name}`"

    def turn(self, table: Table) -> str:
        return self.of(turn_name(table))


def turn_name(table: Table) -> str:
    """The table of one row that every merge into `table` changes first."""
    return f"_kpiflow_turn_{table.name}"


def turn(names: Names, table: Table) -> str:
    """Makes the turn of a table, with its row, unless another job was faster."""
    return f"CREATE TABLE IF NOT EXISTS {names.turn(table)} AS SELECT 0 AS merges, CURRENT_TIMESTAMP() AS merged_at"


@dataclass(frozen=True)
class Merge:
    """A batch of `rows` rows, numbered from 0 up, but for those in `refused`, which never came to lie in `inbox`.

    `days` are runs of days (first, last) that hold all rows with a time, `timeless` tells of rows without one.
    """

    names: Names
    table: Table
    inbox: str
    batch: str
    batch_at: str
    rows: int
    days: Sequence[tuple[str, str]]
    timeless: bool
    contest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contest", f"contest_{self.batch}")

    def script(self) -> str:
        """One script; its result is the number of rows that are new in the table or stand for an older one."""
        steps = [
            "DECLARE whole BOOL;\nDECLARE taken INT64;\nDECLARE earliest, latest TIMESTAMP;\nBEGIN TRANSACTION;",
            take_turn(self.names, self.table),
            self._seen_whole(),
            self._held(),
            f"SET taken = (SELECT COUNT(*) FROM `{self.contest}` WHERE place = 1 AND {ROW} IS NOT NULL);",
            self._displace() if self.table.name == REPORTS.name else "",
            f"IF taken > 0 THEN\n{self._merge()}\nEND IF;",
            f"DROP TABLE `{self.contest}`;\nCOMMIT TRANSACTION;\nSELECT taken;",
        ]
        return "\n".join(filter(None, steps))

    @property
    def _source(self) -> str:
        """The rows of the batch; a row that was appended twice is there twice."""
        return f"{self.names.of(self.inbox)} AS s WHERE s.{BATCH_AT} = TIMESTAMP '{self.batch_at}' AND s.{BATCH} = '{self.batch}'"

    @property
    def _same_key(self) -> str:
        return " AND ".join(f"t.`{name}` = s.`{name}`" for name in self.table.key)

    @property
    def _touched(self) -> str:
        return touched("t", self.table, self.days, self.timeless)

    def _seen_whole(self) -> str:
        robbed = f"{turn_name(self.table)} must hold one row; drop it and start the job again"
        return dedent(f"""\
            SET whole = (SELECT IF(COUNT(DISTINCT {ROW}) = {self.rows}, TRUE, ERROR('{MISSING}')) FROM {self._source});
            SET whole = (SELECT IF(COUNT(*) = 1, TRUE, ERROR('{robbed}')) FROM {self.names.turn(self.table)});""")

    def _held(self) -> str:
        """Puts the rows of the batch beside the stored rows with their keys; `place` 1 is the row that is to stand."""
        identity = [each.column for each in self.table.preferences]
        columns = list(dict.fromkeys([*self.table.key, *identity]))
        ours, theirs = (", ".join(f"{alias}.`{name}`" for name in columns) for alias in "st")
        window = f"PARTITION BY {', '.join(f'`{name}`' for name in self.table.key)} ORDER BY {_order_best_first(self.table)}"
        message = [name for name in ("source", "message_id") if name in identity]
        won = "".join(f", FIRST_VALUE(`{name}`) OVER standing AS won_{name}" for name in message)
        return dedent(f"""\
            CREATE TEMP TABLE `{self.contest}` AS
            SELECT *, ROW_NUMBER() OVER standing AS place{won}
            FROM (
              SELECT {ours}, s.{ROW} FROM {self._source}
              UNION ALL
              SELECT {theirs}, CAST(NULL AS INT64) AS {ROW} FROM {self.names.of(self.table.name)} AS t
              WHERE {self._touched} AND EXISTS (SELECT 1 FROM {self._source} AND {self._same_key})
            )
            WINDOW standing AS ({window});""")

    def _displace(self) -> str:
        """Puts messages whose report is another message's into the duplicates."""
        lost = f"`{self.contest}` WHERE source != won_source OR message_id != won_message_id"
        columns = ", ".join(f"`{name}`" for name in DUPLICATES.schema.names)
        values = ", ".join("1" if name == "revision" else f"s.`{name}`" for name in DUPLICATES.schema.names)
        return dedent(f"""\
            IF EXISTS (SELECT 1 FROM {lost}) THEN
            SET earliest = (SELECT MIN(received_at) FROM {lost});
            SET latest = (SELECT MAX(received_at) FROM {lost});
            {take_turn(self.names, DUPLICATES)}
            MERGE {self.names.of(DUPLICATES.name)} AS t
            USING (
              SELECT source, message_id, received_at, report_id FROM {lost}
              QUALIFY ROW_NUMBER() OVER (PARTITION BY source, message_id ORDER BY report_id) = 1
            ) AS s
            ON {" AND ".join(f"t.`{name}` = s.`{name}`" for name in DUPLICATES.key)}
              AND (t.received_at BETWEEN earliest AND latest OR t.received_at IS NULL)
            WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values});
            END IF;""")

    def _merge(self) -> str:
        names = self.table.schema.names
        columns = ", ".join(f"{expression(f)} AS `{f.name}`" for f in self.table.schema)
        ours, theirs = (", ".join(f"{alias}`{name}`" for name in names) for alias in ("", "s."))
        changes = ", ".join(f"`{name}` = s.`{name}`" for name in names if name not in self.table.key)
        return dedent(f"""\
            MERGE {self.names.of(self.table.name)} AS t
            USING (
              SELECT {columns}
              FROM {self._source} AND {ROW} IN (SELECT {ROW} FROM `{self.contest}` WHERE place = 1)
              QUALIFY ROW_NUMBER() OVER (PARTITION BY {ROW} ORDER BY {ROW}) = 1
            ) AS s
            ON {self._same_key} AND {self._touched}
            WHEN MATCHED THEN UPDATE SET {changes}
            WHEN NOT MATCHED THEN INSERT ({ours}) VALUES ({theirs});""")


def take_turn(names: Names, table: Table) -> str:
    """Changes the row of a table's turn."""
    return f"UPDATE {names.turn(table)} SET merges = merges + 1, merged_at = CURRENT_TIMESTAMP() WHERE TRUE;"


def touched(alias: str, table: Table, days: Sequence[tuple[str, str]], timeless: bool) -> str:
    """The condition that a row lies on one of the days, or has no time if `timeless`; literals, so that partitions are pruned."""
    time = f"{alias}.`{table.time}`"
    spans = [during(time, f"{first} 00:00:00+00", f"{last} 23:59:59.999999+00") for first, last in days]
    return f"({' OR '.join(spans + [f'{time} IS NULL'] * timeless)})"


def during(time: str, first: str, last: str) -> str:
    """The condition that a time lies between two moments, both of them included."""
    return f"{time} >= TIMESTAMP '{first}' AND {time} <= TIMESTAMP '{last}'"


def expression(column: pa.Field, name: str = "") -> str:
    """A column of a table, put together from the flat columns of its inbox."""
    name = name or column.name
    if pa.types.is_map(column.type):
        pairs = f"UNNEST(`{name}__key`) AS k WITH OFFSET AS i JOIN UNNEST(`{name}__value`) AS v WITH OFFSET AS j ON i = j"
        return f"ARRAY(SELECT AS STRUCT k AS `key`, v AS `value` FROM {pairs} ORDER BY i)"
    if pa.types.is_struct(column.type):
        parts = [(child, f"{name}__{child.name}") for child in column.type]
        whole = ", ".join(f"{expression(child, part)} AS `{child.name}`" for child, part in parts)
        void = " AND ".join(
            f"`{part}` IS NULL" for child, part in parts if not pa.types.is_nested(child.type)
        )
        return f"IF({void}, NULL, STRUCT({whole}))"
    return f"`{name}`"


def _order_best_first(table: Table) -> str:
    """The rule which row is kept (`schemas.tables.KEPT_ROW`) as SQL; stored rows, which have no number, before new ones."""
    terms = []
    for each in table.preferences:
        if each.is_text:
            terms.append(f"BYTE_LENGTH({each.column}) ASC NULLS FIRST")
        terms.append(f"{each.column} DESC" if each.largest else f"{each.column} ASC NULLS FIRST")
    return ", ".join([*terms, f"{ROW} ASC NULLS FIRST"])
