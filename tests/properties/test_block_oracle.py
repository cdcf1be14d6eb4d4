"""Blocks, one by one, give what one block of everything gives; recalled reports, what one run gives."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import DUPLICATES, REPORTS
from tests.builders import agent
from tests.properties.test_history_oracle import (
    METRIC_VALUES,
    MIN_SAMPLES,
    apply_to,
    check_baselines,
    check_fates,
    sort_results,
)
from transforms.core.record_batches import REPORT_BATCH, conform, make_empty
from transforms.history import batch_history
from transforms.history.batch_history import PIECE_ROWS
from transforms.history.blocks import Blocks
from transforms.history.recall import _read_for_blocks, list_hours_to_read
from transforms.history.time_rules import HOUR_MINUTES, find_affected_hours, find_minutes
from transforms.sinks.row_merge import merge_rows
from transforms.sinks.sink import Store

ORIGINS = st.sampled_from([datetime(2024, 2, 29, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)])
"""Midnights: a block of any length begins there. Before the second one, hours are negative."""
EDGES = st.builds(
    lambda hour, minute, second: 3600 * hour + 60 * minute + second,
    st.sampled_from([-2, -1, -1, 0, 0, 1, 2, 3]),
    st.one_of(st.sampled_from([0, 1, 2, 30, 57, 58, 59]), st.integers(0, 59)),
    st.sampled_from([0, 30, 59.999999]),
)
"""Seconds from midnight."""
DELIVERIES = st.lists(
    st.fixed_dictionaries(
        {
            "source": st.sampled_from("st"),
            "message": st.sampled_from("12"),
            "delay": st.sampled_from([0, 59.5, 60, 60.5, 3000, None]),
            "runs": st.sampled_from([(0,), (1,), (0, 1)]),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda each: (each["source"], each["message"]),
)
"""The messages with a report: seconds until each was received, and in which of two runs it is."""
CROWDS = st.tuples(
    ORIGINS,
    st.lists(
        st.tuples(
            st.fixed_dictionaries(
                {"agent_id": st.sampled_from([agent(), agent(), agent(1), agent(2)]), **METRIC_VALUES}
            ),
            EDGES,
            DELIVERIES,
        ),
        min_size=12,
        max_size=40,
    ),
)
BLOCKS = st.builds(Blocks, st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]), st.integers(1, 4))
CUTS = st.lists(st.integers(0, 80), max_size=3)
Crowd = tuple[datetime, list[tuple[dict, float, list[dict]]]]


def list_rows(crowd: Crowd, runs: Iterable[int] = (0, 1)) -> list[dict]:
    """A row for every message of some runs; a message of both comes twice."""
    midnight, reports = crowd
    rows = []
    for number, (report, second, deliveries) in enumerate(reports):
        recorded = midnight + timedelta(seconds=second)
        for each in deliveries:
            delay = each["delay"]
            message = {
                "report_id": f"{number:032x}",
                "recorded_at": recorded,
                "received_at": None if delay is None else recorded + timedelta(seconds=delay),
                "source": each["source"],
                "message_id": f"{number}-{each['message']}",
                "context": False,
            }
            rows += [report | message for run in runs if run in each["runs"]]
    return rows


def cut_rows(rows: list[dict], cuts: Iterable[int]) -> list[pa.RecordBatch]:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    whole = pa.RecordBatch.from_pylist(rows, REPORT_BATCH)
    return [whole.slice(first, end - first) for first, end in zip(edges, edges[1:])]


def apply_by_block(
    keyed: Iterable[tuple[int, pa.RecordBatch]],
) -> tuple[list[tuple[int, pa.RecordBatch]], list]:
    """(block, BASELINED) and DUPLICATE batches, block by block."""
    parts: dict[int, list[pa.RecordBatch]] = defaultdict(list)
    for key, batch in keyed:
        parts[key].append(batch)
    reports, duplicates = [], []
    for block in parts.items():
        for out in batch_history._apply_to_block(block, MIN_SAMPLES):
            if isinstance(out, beam.pvalue.TaggedOutput):
                assert out.tag == "duplicates"
                duplicates.append(out.value)
            else:
                reports.append(out)
    return reports, duplicates


def split_all(batches: Iterable[pa.RecordBatch], blocks: Blocks) -> Iterator[tuple[int, pa.RecordBatch]]:
    return (keyed for batch in batches for keyed in blocks.split(batch))


@settings(max_examples=60, deadline=None)
@given(CROWDS, BLOCKS, CUTS, st.sampled_from([1, 5, PIECE_ROWS]), st.randoms(use_true_random=False))
def test_the_union_of_all_blocks_is_one_block_of_everything_and_is_right(crowd, blocks, cuts, piece, random):
    rows = list_rows(crowd)
    rows = random.sample(rows, len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_history, "PIECE_ROWS", piece)
        reports, duplicates = apply_by_block(split_all(cut_rows(rows, cuts), blocks))
    found = sort_results([batch for _, batch in reports], duplicates)
    assert found == apply_to(rows)
    check_fates(rows, *found)
    check_baselines(rows, found[0])
    _check_hours_are_whole(reports, blocks)


def _check_hours_are_whole(reports: list[tuple[int, pa.RecordBatch]], blocks: Blocks) -> None:
    """Check that no hour of a shard is in two batches, and that each batch has the key of its block."""
    places: Counter[tuple[int, int]] = Counter()
    for key, batch in reports:
        hours = np.unique(find_minutes(batch) // HOUR_MINUTES)
        assert set((hours // blocks.hours).tolist()) == {key // blocks.shards}
        assert set(blocks.make_keys(hours[:1] // blocks.hours, batch["agent_id"]).tolist()) == {key}
        places.update((hour, key % blocks.shards) for hour in hours.tolist())
    assert set(places.values()) <= {1}


class Memory:
    """A store in memory, which counts how often each hour is read."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self.rows = rows
        self.reads: Counter[int] = Counter()

    def read_reports(self, hour: int) -> Iterator[pa.RecordBatch]:
        self.reads[hour] += 1
        found = self.rows.filter(pa.array(find_minutes(self.rows) // HOUR_MINUTES == hour))
        found = found.sort_by("recorded_at")
        yield from (found[:1], found[1:])


def add_run(stored: dict[str, pa.RecordBatch], rows: list[dict], blocks: Blocks, cuts: list[int]) -> Memory:
    """Run over the rows, with what is recalled from the tables in `stored`, which are then updated."""
    store, batches = Memory(stored[REPORTS.name]), cut_rows(rows, cuts)
    hours: dict[int, list[int]] = defaultdict(list)
    for batch in batches:
        for hour, distance in list_hours_to_read(find_affected_hours(batch)):
            hours[hour].append(distance)
    keyed = list(split_all(batches, blocks))
    for hour, distances in hours.items():
        keyed += _read_for_blocks(cast(Store, store), blocks, hour, distances)
    reports, duplicates = apply_by_block(keyed)
    for table, parts in ((REPORTS, [batch for _, batch in reports]), (DUPLICATES, duplicates)):
        new = pa.concat_batches([make_empty(table.schema), *(conform(part, table.schema) for part in parts)])
        stored[table.name] = merge_rows(table, stored[table.name], new).rows
    _check_hours_are_whole(reports, blocks)
    return store


def run_one_after_the_other(
    runs: list[list[dict]], blocks: Blocks, cuts: list[int]
) -> tuple[Any, Any, Memory]:
    """The rows of reports and of duplicates after some runs, by key, and the store of the last run."""
    stored = {table.name: make_empty(table.schema) for table in (REPORTS, DUPLICATES)}
    for rows in runs:
        store = add_run(stored, rows, blocks, cuts)
    by_key = [
        sorted(stored[table.name].to_pylist(), key=lambda row, table=table: [row[name] for name in table.key])
        for table in (REPORTS, DUPLICATES)
    ]
    return by_key[0], by_key[1], store


@settings(max_examples=60, deadline=None)
@given(CROWDS, BLOCKS, CUTS, st.permutations([0, 1]))
def test_a_run_over_new_reports_with_recalled_ones_gives_what_one_run_over_all_gives(
    crowd, blocks, cuts, order
):
    both = [list_rows(crowd, [run]) for run in order]
    *found, store = run_one_after_the_other(both, blocks, cuts)
    *expected, _ = run_one_after_the_other([both[0] + both[1]], Blocks(24), [])
    assert found == expected
    assert set(store.reads.values()) <= {1}


@pytest.mark.parametrize("hours", [1, 2, 3, 24])
@pytest.mark.parametrize("minute", [57, 58, 59])
def test_a_new_report_of_the_last_minutes_of_an_hour_changes_baselines_two_hours_later(minute, hours):
    """Two agents' reports of three hours are stored; a new one of the first hour feeds what it should."""
    metrics = {"agent_id": agent(), "latency_ms": 100.0, "accuracy": 0.9, "cpu_usage": 0.5, "memory_mb": 9.0}
    one = [{"source": "s", "message": "1", "delay": 1, "runs": (0,)}]
    old = [(metrics, 60 * each, one) for each in range(-120, 240, 20)]
    old += [(metrics, 60 * (minute + ahead), one) for ahead in (2, 3, 61, 62, 63)]
    crowd = (datetime(2024, 2, 29, tzinfo=UTC), [*old, (metrics, 60 * minute, [one[0] | {"runs": (1,)}])])
    rows = [list_rows(crowd, [run]) for run in (0, 1)]
    *found, store = run_one_after_the_other(rows, Blocks(hours), [])
    *expected, _ = run_one_after_the_other([rows[0] + rows[1]], Blocks(24), [])
    assert found == expected
    first = int(crowd[0].timestamp()) // 3600
    last = 2 if minute >= 58 else 1
    assert sorted(hour - first for hour in store.reads) == list(range(-2, last + 1))
    assert set(store.reads.values()) == {1}
