"""What went through each stage of this process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from transforms.core import stage_counters

THREE = pa.RecordBatch.from_pydict({"n": [1, 2, 3]})


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    stage_counters.reset()
    yield
    stage_counters.reset()


def test_rows_and_bytes_add_up_in_the_order_in_which_stages_began() -> None:
    stage_counters.add("read", bytes=10)
    stage_counters.add("validate", rows=3)
    stage_counters.add("read", bytes=5)
    found = stage_counters.snapshot()
    assert list(found) == ["read", "validate"]
    assert (found["read"].bytes, found["read"].rows, found["validate"].rows) == (15, 0, 3)


def test_a_snapshot_does_not_change_any_more() -> None:
    stage_counters.add("read", rows=1)
    before = stage_counters.snapshot()
    stage_counters.add("read", rows=1)
    assert (before["read"].rows, stage_counters.snapshot()["read"].rows) == (1, 2)


def test_a_staged_kernel_gives_its_result_and_counts_its_rows() -> None:
    counted = stage_counters.count_stage("total", total)
    assert (counted(THREE, times=2), counted(THREE)) == (12, 6)
    assert stage_counters.snapshot()["total"].rows == 6
    assert counted.__name__ == "total"


def total(batch: pa.RecordBatch, times: int = 1) -> int:
    return times * sum(batch["n"].to_pylist())


def test_a_block_that_raises_is_counted_too() -> None:
    with pytest.raises(ZeroDivisionError), stage_counters.time_stage("fails", 7):
        raise ZeroDivisionError
    found = stage_counters.snapshot()["fails"]
    assert found.rows == 7
    assert found.seconds > 0


def test_no_count_of_several_threads_is_lost() -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [stage_counters.add("read", rows=1) for _ in range(500)], range(8)))
    assert stage_counters.snapshot()["read"].rows == 4000


def test_what_is_taken_begins_again_and_can_be_added_elsewhere() -> None:
    stage_counters.add("read", rows=2, bytes=10, seconds=0.5)
    taken = stage_counters.take()
    assert stage_counters.snapshot() == {}
    stage_counters.add("read", rows=1, bytes=5)
    stage_counters.add_stages(taken)
    assert stage_counters.snapshot() == {"read": stage_counters.Stage(3, 15, 0.5)}


def test_reset_forgets_counts() -> None:
    stage_counters.add("read", rows=1)
    stage_counters.reset()
    assert stage_counters.snapshot() == {}
