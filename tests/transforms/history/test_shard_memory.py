"""The memory of a shard: what it remembers, for how long, and what it takes to write it down."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from schemas.tables import METRICS
from tests.builders import agent
from transforms.core.record_batches import REPORT_BATCH
from transforms.history import shard_memory, state_codec
from transforms.history.rolling_window import BITS, FeedingReports, Window
from transforms.history.seen_reports import SeenReports
from transforms.history.shard_memory import Admitted, ShardMemory
from transforms.history.state_codec import DELTA_REPORTS, HEADER

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000
MINUTE = 60_000_000
HOUR = 60


def row(id: int, at: float, message: str = "", delay: float = 1, **fields) -> dict:
    """Report `id`, recorded so many minutes after noon and received so many seconds later."""
    recorded = NOON + timedelta(minutes=at)
    return {
        "report_id": f"{id:032x}",
        "source": "s",
        "message_id": message or f"m{id}",
        "agent_id": agent(),
        "recorded_at": recorded,
        "received_at": recorded + timedelta(seconds=delay),
        "latency_ms": 100.0,
        "accuracy": 0.9,
        "cpu_usage": 0.5,
        "memory_mb": 512.0,
        "context": False,
    } | fields


def admit(memory: ShardMemory, *rows: dict) -> Admitted:
    return memory.admit(pa.RecordBatch.from_pylist(list(rows), REPORT_BATCH))


def fates(admitted: Admitted) -> tuple[list[tuple[str, int]], list[str]]:
    """The messages of the reports with their baseline_n, and those of the duplicates."""
    reports = zip(*(admitted.reports[name].to_pylist() for name in ("message_id", "baseline_n")))
    return list(reports), admitted.duplicates["message_id"].to_pylist()


@pytest.fixture
def memory() -> ShardMemory:
    return ShardMemory(min_samples=2, stale_seconds=3600)


def test_a_report_is_compared_with_the_batches_before_it(memory: ShardMemory) -> None:
    assert fates(admit(memory, row(1, 0), row(2, 0.5))) == ([("m1", 0), ("m2", 0)], [])
    reports = admit(memory, row(3, 3)).reports
    assert reports.select(["baseline_n", "revision", "latency_baseline_state"]).to_pylist() == [
        {"baseline_n": 2, "revision": 2, "latency_baseline_state": "flat"}
    ]


def test_a_known_report_is_a_duplicate_but_a_known_message_leaves_no_trace(memory: ShardMemory) -> None:
    admit(memory, row(1, 0))
    again, other = row(1, 0), row(1, 0, message="y", delay=9)
    assert fates(admit(memory, again)) == ([], [])
    assert fates(admit(memory, other, again, other)) == ([], ["y"])
    (lost,) = admit(memory, other).duplicates.to_pylist()
    assert lost == {name: other[name] for name in ("source", "message_id", "received_at", "report_id")} | {
        "kind": "kpi_report",
        "record_id": None,
        "revision": 1,
    }


def test_equal_message_ids_of_two_sources_are_two_messages(memory: ShardMemory) -> None:
    admit(memory, row(1, 0, message="1"))
    assert fates(admit(memory, row(1, 0, message="1", source="t"))) == ([], ["1"])


def test_context_feeds_and_is_known_but_does_not_come_out(memory: ShardMemory) -> None:
    assert fates(admit(memory, row(1, 0, context=True))) == ([], [])
    assert fates(admit(memory, row(1, 0, message="y"), row(2, 3))) == ([("m2", 1)], ["y"])
    assert fates(admit(memory, row(2, 3, message="z", context=True))) == ([], [])


def test_a_report_that_came_late_feeds_nothing_and_one_of_unknown_time_does(memory: ShardMemory) -> None:
    admit(memory, row(1, 0, delay=60), row(2, 0, delay=60.001), row(3, 0, received_at=None))
    assert fates(admit(memory, row(4, 3)))[0] == [("m4", 2)]


def test_agents_have_a_window_each(memory: ShardMemory) -> None:
    admit(memory, row(1, 0), row(2, 0, agent_id=agent(1)))
    assert fates(admit(memory, row(3, 3, agent_id=agent(1)), row(4, 3, agent_id=agent(2))))[0] == [
        ("m3", 1),
        ("m4", 0),
    ]


def test_an_agent_whose_messages_lag_behind_those_of_others_is_compared_with_all_of_its_own(
    memory: ShardMemory,
) -> None:
    admit(memory, row(1, 0), row(2, 3))
    admit(memory, row(3, 0, agent_id=agent(1)))
    assert fates(admit(memory, row(4, 3), row(5, 3, agent_id=agent(1))))[0] == [("m4", 1), ("m5", 1)]


@pytest.mark.parametrize(("watermark", "known"), [(61 * MINUTE - 1, True), (61 * MINUTE, False)])
def test_a_report_is_known_until_none_of_its_copies_can_come(
    memory: ShardMemory, watermark: int, known: bool
) -> None:
    admit(memory, row(1, 0))
    memory.evict(NOON_US + watermark)
    assert fates(admit(memory, row(1, 0, message="y")))[1] == (["y"] if known else [])


@pytest.mark.parametrize(("watermark", "samples"), [(123 * MINUTE - 1, 1), (123 * MINUTE, 0)])
def test_a_report_feeds_until_its_last_window_cannot_be_asked_for(
    memory: ShardMemory, watermark: int, samples: int
) -> None:
    admit(memory, row(1, 0))
    memory.evict(NOON_US + watermark)
    assert fates(admit(memory, row(2, 62, delay=3600)))[0] == [("m2", samples)]


def test_a_memory_tells_when_the_next_of_it_expires(memory: ShardMemory) -> None:
    assert memory.expires_us is None
    admit(memory, row(1, 0))
    for minutes in (61, 123):
        assert memory.expires_us == NOON_US + minutes * MINUTE
        memory.evict(memory.expires_us)
    assert memory.expires_us is None


def test_minutes_can_be_forgotten_and_come_again(memory: ShardMemory) -> None:
    admit(memory, row(1, 0), row(2, 1), row(3, 10))
    admit(memory, row(4, 10))
    minute = NOON_US // MINUTE
    memory.forget(range(minute, minute + 2))
    assert fates(admit(memory, row(5, 10)))[0] == [("m5", 0)]
    assert fates(admit(memory, row(1, 0), row(6, 10)))[0] == [("m1", 0), ("m6", 1)]
    assert fates(admit(memory, row(3, 10, message="y"))) == ([], ["y"])


def test_deltas_make_the_memory_again_in_any_order(memory: ShardMemory) -> None:
    added = [
        delta for id in range(4) for delta in admit(memory, row(id, id % 2, agent_id=agent(id % 2))).deltas
    ]
    again = ShardMemory.load(reversed(added), 2, 3600)
    asked = [row(10, 5), row(11, 5, agent_id=agent(1)), row(2, 0, message="y")]
    assert admit(again, *asked) == admit(memory, *asked)


def test_a_snapshot_takes_the_place_of_all_deltas(
    memory: ShardMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_codec, "DELTA_REPORTS", 3)
    admit(memory, *(row(id, id / 7, agent_id=agent(id % 3)) for id in range(20)))
    parts = memory.snapshot()
    assert len(parts) == 7
    again = ShardMemory.load(parts, 2, 3600)
    assert again.snapshot() == parts
    asked = [row(30, 5), row(31, 5, agent_id=agent(2)), row(7, 1, message="y")]
    assert admit(again, *asked) == admit(memory, *asked)


def test_the_delta_of_a_few_reports_is_small_and_that_of_many_comes_in_parts(memory: ShardMemory) -> None:
    (delta,) = admit(memory, *(row(id, 0, agent_id=agent(id)) for id in range(8))).deltas
    assert len(delta) == HEADER.size + 8 * (16 + 32 + 20) < 1000
    many = admit(memory, *(row(id, 1, agent_id=agent(id)) for id in range(100, 101 + DELTA_REPORTS))).deltas
    assert len(many) == 2
    assert max(map(len, many)) < 1 << 20


def test_a_snapshot_is_due_when_deltas_are_many_or_out_of_date(
    memory: ShardMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_memory, "MOST_DELTAS", 3)
    for id in range(3):
        admit(memory, row(id, id))
        assert not memory.needs_snapshot
    admit(memory, row(3, 3))
    assert memory.needs_snapshot
    memory.snapshot()
    assert not memory.needs_snapshot
    monkeypatch.setattr(shard_memory, "OUTDATED_BYTES", 0)
    memory.evict(NOON_US + 64 * MINUTE)
    assert memory.needs_snapshot


def test_a_memory_that_is_empty_again_is_due_to_be_written_so(memory: ShardMemory) -> None:
    assert not memory.needs_snapshot
    admit(memory, row(1, 0))
    memory.evict(NOON_US + 123 * MINUTE)
    assert memory.needs_snapshot
    assert memory.snapshot() == []
    assert not memory.needs_snapshot


def test_agents_that_are_gone_are_forgotten(memory: ShardMemory) -> None:
    admit(memory, *(row(id, 0, agent_id=agent(id)) for id in range(9)))
    admit(memory, row(20, 70, agent_id=agent(5)), row(21, 70, agent_id=agent(7)))
    memory.evict(NOON_US + 123 * MINUTE)
    memory.snapshot()
    assert len(memory.agents) == 2
    assert fates(admit(memory, row(30, 73, agent_id=agent(7)), row(31, 73, agent_id=agent(0))))[0] == [
        ("m30", 1),
        ("m31", 0),
    ]


def test_a_delta_of_another_version_is_refused(memory: ShardMemory) -> None:
    (delta,) = admit(memory, row(1, 0)).deltas
    with pytest.raises(ValueError, match=r"version 2.*--fresh"):
        ShardMemory.load([b"\2" + delta[1:]], 2, 3600)


def test_an_empty_batch_changes_nothing(memory: ShardMemory) -> None:
    admitted = admit(memory)
    assert (fates(admitted), admitted.deltas, memory.expires_us) == (([], []), [], None)


def test_halves_that_reports_share_do_not_make_them_one() -> None:
    def seen(*pairs: tuple[int, int]) -> SeenReports:
        first, second = np.array(pairs, np.uint64).reshape(-1, 2).T
        return SeenReports(first, second, second)

    kept = seen((1, 5), (1, 3)).insert(seen((0, 3), (2, 3), (1, 4)))
    asked = seen((1, 3), (1, 4), (1, 5), (1, 6), (0, 3), (0, 4), (2, 3), (2, 5), (3, 3))
    found = kept.find(asked)
    assert (found >= 0).tolist() == [True, True, True, False, True, False, True, False, False]
    assert kept.take(found[found >= 0]).second.tolist() == [3, 4, 5, 3, 3]


def test_groups_of_any_number_are_ordered_alike() -> None:
    rng = np.random.default_rng(5)
    agents, buckets = (
        rng.integers(0, 3, 50).astype(np.int32),
        rng.integers(0, 1999, (50, len(METRICS))).astype(np.int16),
    )
    few, far = (
        Window(FeedingReports(agents, buckets)),
        Window(FeedingReports(agents + (1 << (32 - BITS)), buckets)),
    )
    groups = np.arange(4)
    first, end = few.find_groups(groups)
    assert np.array_equal((first, end), far.find_groups(groups + (1 << (32 - BITS))))
    assert end.tolist() == [*np.cumsum(np.bincount(agents, minlength=4))]
    for metric in range(len(METRICS)):
        assert np.array_equal(few.read(metric, np.arange(50)), far.read(metric, np.arange(50)))
        assert few.read(metric, np.arange(first[1], end[1])).value.tolist() == sorted(
            buckets[agents == 1, metric].tolist()
        )
