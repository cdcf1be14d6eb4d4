"""Rows are grouped by key and reduced over each group."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.grouping import group_rows, rank_texts, sort_rows


@given(
    keys=st.lists(st.sampled_from([0, 1, 5]), min_size=1)
    | st.lists(st.sampled_from([0, 1, 2**62, 2**63 - 1]), min_size=1)
)
def test_keys_of_any_size_are_ordered_stably(keys):
    np.testing.assert_array_equal(sort_rows(np.array(keys)), np.argsort(keys, kind="stable"))


@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1))
def test_groups_add_up_and_know_their_extremes(pairs):
    keys, values = np.array(pairs).T
    groups = group_rows(keys)
    expected = {
        key: [value for each, value in pairs if each == key] for key in sorted({key for key, _ in pairs})
    }
    assert keys[groups.picks].tolist() == list(expected)
    assert groups.total(values).tolist() == [sum(each) for each in expected.values()]
    assert groups.extreme(np.minimum, values).tolist() == [min(each) for each in expected.values()]


def test_texts_are_ranked_in_ascending_order_with_null_last():
    places, distinct = rank_texts(pa.array(["b", None, "a", "b"]))
    assert (places.tolist(), distinct.to_pylist()) == ([1, 2, 0, 1], ["a", "b", None])
