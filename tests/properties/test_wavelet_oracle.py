import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.history.wavelet_matrix import WaveletMatrix


@st.composite
def questions(draw: st.DrawFn) -> tuple[int, list[int], int, int]:
    """A size, values below it, and a range of them that is not empty."""
    size = draw(st.integers(1, 5000))
    values = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=60))
    first = draw(st.integers(0, len(values) - 1))
    return size, values, first, draw(st.integers(first + 1, len(values)))


@settings(max_examples=100, deadline=None)
@given(questions())
def test_every_order_statistic_of_a_range_is_that_of_the_sorted_range(question):
    size, values, first, end = question
    ordered = np.sort(values[first:end])
    nth = np.arange(len(ordered), dtype=np.int32)
    found = WaveletMatrix(np.array(values), size).find_nth(
        np.full_like(nth, first), np.full_like(nth, end), nth
    )
    assert np.array_equal(found.value, ordered)
    assert np.array_equal(found.place, nth - np.searchsorted(ordered, ordered))
    assert np.array_equal(found.equals, [np.count_nonzero(ordered == value) for value in ordered])


@settings(max_examples=100, deadline=None)
@given(questions(), st.data())
def test_every_rank_is_a_count_over_the_range(question, data):
    size, values, first, end = question
    value = data.draw(st.integers(0, size - 1))
    one = np.ones(1, np.int32)
    counted = WaveletMatrix(np.array(values), size).rank(one * first, one * end, one * value)
    part = values[first:end]
    assert (counted.smaller[0], counted.equals[0]) == (
        sum(other < value for other in part),
        part.count(value),
    )
