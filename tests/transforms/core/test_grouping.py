"""Rows are grouped by key and reduced over each group."""

import statistics

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.grouping import (
    compute_group_medians,
    group_rows,
    iterate_groups,
    number_repeats,
    rank_texts,
    sort_rows,
    split_rows,
)


@given(
    keys=st.lists(st.sampled_from([0, 1, 5]), min_size=1)
    | st.lists(st.sampled_from([-7, -1, 0, 3]), min_size=1)
    | st.lists(st.sampled_from([-(2**63), 0, 1, 2**62, 2**63 - 1]), min_size=1)
)
def test_keys_of_any_size_are_ordered_stably(keys):
    np.testing.assert_array_equal(sort_rows(np.array(keys)), np.argsort(keys, kind="stable"))


@given(pairs=st.lists(st.tuples(st.integers(-2, 3), st.integers(-5, 5)), min_size=1))
def test_groups_add_up_and_know_their_extremes(pairs):
    keys, values = np.array(pairs).T
    groups = group_rows(keys)
    expected = {
        key: [value for each, value in pairs if each == key] for key in sorted({key for key, _ in pairs})
    }
    assert keys[groups.picks].tolist() == list(expected)
    assert groups.total(values).tolist() == [sum(each) for each in expected.values()]
    assert groups.reduce(np.minimum, values).tolist() == [min(each) for each in expected.values()]


def test_texts_are_ranked_in_ascending_order_with_null_last():
    places, distinct = rank_texts(pa.array(["b", None, "a", "b"]))
    assert (places.tolist(), distinct.to_pylist()) == ([1, 2, 0, 1], ["a", "b", None])


@given(keys=st.lists(st.sampled_from([-3, 0, 4])))
def test_each_key_comes_with_its_rows_in_their_order(keys):
    rows = pa.record_batch({"row": pa.array(range(len(keys)), pa.int64())})
    expected = {key: [row for row, each in enumerate(keys) if each == key] for key in sorted(set(keys))}
    numbers = np.array(keys, np.int64)
    groups = {key: np.arange(len(keys))[found].tolist() for key, found in iterate_groups(numbers)}
    parts = {key: part["row"].to_pylist() for key, part in split_rows(rows, numbers)}
    assert list(groups.items()) == list(parts.items()) == list(expected.items())


@given(keys=st.lists(st.sampled_from([-3, 0, 4])))
def test_the_rows_of_each_key_are_numbered_in_their_order(keys):
    assert number_repeats(np.array(keys, np.int64)).tolist() == [
        keys[:row].count(each) for row, each in enumerate(keys)
    ]


def test_no_rows_make_no_groups():
    groups = group_rows(np.zeros(0, np.int64))
    assert (len(groups.ids), len(groups.picks), groups.total(np.zeros(0)).tolist()) == (0, 0, [])


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), min_size=1, max_size=50))
def test_group_medians_are_those_of_each_group_alone(rows: list[tuple[int, float]]) -> None:
    kinds = sorted({kind for kind, _ in rows})
    codes = np.array([kinds.index(kind) for kind, _ in rows])
    found = compute_group_medians(codes, np.array([value for _, value in rows]))
    assert found.tolist() == [
        statistics.median([value for of, value in rows if of == kind]) for kind in kinds
    ]
