"""Batches of a stream are keyed by table and writer, and find their table again behind the gathering."""

import pyarrow as pa
import pytest

from schemas.tables import DUPLICATES, QUARANTINED
from tests.builders import NOON, messages, report
from transforms.batches import filled
from transforms.sinks.gathered import by_writer, part_by_table

NAMES = [QUARANTINED.name, DUPLICATES.name]


def duplicates(count: int) -> pa.RecordBatch:
    """Duplicates of one minute."""
    given = messages([report(i) for i in range(count)], NOON)
    columns = {name: given[name] for name in ("source", "message_id", "received_at")}
    columns |= {"report_id": given["message_id"], "revision": pa.array([1] * count, pa.int64())}
    return filled(columns, DUPLICATES.schema, count)


@pytest.mark.parametrize("writers", [1, 3])
def test_gathered_batches_find_their_table_again(writers: int) -> None:
    batch = duplicates(5)
    for key, rows in by_writer(batch, DUPLICATES.name, NAMES.index(DUPLICATES.name), 1, writers):
        (found,) = part_by_table((key, [rows]), NAMES, writers)
        assert (found.tag, found.value) == (DUPLICATES.name, batch)


def test_a_file_has_one_writer_in_all_batches() -> None:
    keys = {key for _ in range(3) for key, _ in by_writer(duplicates(7), DUPLICATES.name, 2, 1, writers=5)}
    assert len(keys) == 1
    assert keys.pop() // 5 == 2


def test_a_large_batch_is_gathered_in_parts() -> None:
    parts = [rows for _, rows in by_writer(duplicates(5000), DUPLICATES.name, 2, 1, writers=1)]
    assert [rows.num_rows for rows in parts] == [2048, 2048, 904]
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([duplicates(5000)]))
