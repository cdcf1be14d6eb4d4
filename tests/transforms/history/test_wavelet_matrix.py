import numpy as np
import pytest

from transforms.history import wavelet_matrix
from transforms.history.wavelet_matrix import WaveletMatrix


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_the_nth_smallest_of_a_range_comes_with_its_place_among_equals():
    matrix = WaveletMatrix(ints(9, 4, 7, 4, 4, 0, 9), size=10)
    found = matrix.find_nth(ints(1, 1, 1, 1, 1), ints(6, 6, 6, 6, 6), ints(0, 1, 2, 3, 4))
    assert [*zip(*(column.tolist() for column in found))] == [
        (0, 0, 1),
        (4, 0, 3),
        (4, 1, 3),
        (4, 2, 3),
        (7, 0, 1),
    ]


def test_a_rank_counts_what_is_smaller_and_what_is_equal():
    matrix = WaveletMatrix(ints(9, 4, 7, 4, 4, 0, 9), size=16)
    counted = matrix.rank(ints(0, 0, 0, 3, 2), ints(7, 7, 7, 5, 2), ints(4, 0, 15, 9, 4))
    assert counted.smaller.tolist() == [1, 0, 7, 2, 0]
    assert counted.equals.tolist() == [3, 1, 0, 0, 0]


@pytest.mark.parametrize("size", [1, 2])
def test_one_possible_value_is_found_everywhere(size):
    matrix = WaveletMatrix(np.zeros(3, np.int64), size)
    assert [column.tolist() for column in matrix.find_nth(ints(0), ints(3), ints(2))] == [[0], [2], [3]]
    assert [column.tolist() for column in matrix.rank(ints(0), ints(3), ints(0))] == [[0], [3]]


def test_no_questions_have_no_answers():
    matrix = WaveletMatrix(np.zeros(0, np.int64), 100)
    assert [
        len(column)
        for column in (*matrix.find_nth(ints(), ints(), ints()), *matrix.rank(ints(), ints(), ints()))
    ] == [0] * 5


def test_answers_do_not_depend_on_how_many_are_asked_at_a_time(monkeypatch):
    matrix = WaveletMatrix(np.arange(40) * 7 % 31, 31)
    first, end = np.arange(20, dtype=np.int32), np.arange(20, 40, dtype=np.int32)
    whole = [*matrix.find_nth(first, end, first), *matrix.rank(first, end, first)]
    monkeypatch.setattr(wavelet_matrix, "BLOCK", 3)
    assert np.array_equal(whole, [*matrix.find_nth(first, end, first), *matrix.rank(first, end, first)])
