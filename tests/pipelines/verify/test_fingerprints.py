"""Counts of fingerprints, against Python's own equality of rows."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.verify.fingerprints import count_fingerprints, find_among
from transforms.core.hashing import fingerprint_rows

texts = st.none() | st.text(st.sampled_from("ab\0é"), max_size=20)
rows = st.lists(st.tuples(texts, texts), max_size=12)


def prints(pairs: list[tuple[str | None, str | None]]) -> np.ndarray:
    return fingerprint_rows([pa.array([pair[place] for pair in pairs], pa.string()) for place in (0, 1)])


@settings(max_examples=100, deadline=None)
@given(rows, rows)
def test_a_census_counts_each_distinct_row_in_each_set(
    a: list[tuple[str, str]], b: list[tuple[str, str]]
) -> None:
    in_a, in_b = Counter(a), Counter(b)
    expected = Counter((in_a[row], in_b[row]) for row in {*a, *b})
    parts = list(count_fingerprints([prints(a), prints(b)]))
    assert Counter(tuple(row) for part in parts for row in part.counts.tolist()) == expected
    found = {tuple(row) for part in parts for row in part.prints.tolist()}
    assert found == {tuple(row) for row in prints([*a, *b]).tolist()}


def test_rows_that_share_the_first_word_are_told_by_the_second() -> None:
    same_first = np.array([[5, 2], [5, 1], [5, 2], [7, 1], [5, 1]], dtype=np.uint64)
    (part,) = [part for part in count_fingerprints([same_first]) if len(part.prints)]
    assert dict(zip(map(tuple, part.prints.tolist()), part.counts[:, 0].tolist())) == {
        (5, 1): 2,
        (5, 2): 2,
        (7, 1): 1,
    }


def test_among_finds_the_wanted_rows() -> None:
    some = prints([("a", "b"), ("c", "d"), ("a", "d")])
    assert find_among(some, some[[2, 0]]).tolist() == [True, False, True]
