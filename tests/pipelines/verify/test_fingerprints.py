"""Fingerprints of rows and counts of them, against Python's own equality."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.verify import fingerprints as module
from pipelines.verify.fingerprints import among, census, fingerprints

texts = st.none() | st.text(st.sampled_from("ab\0é"), max_size=20)
rows = st.lists(st.tuples(texts, texts), max_size=12)


def prints(pairs: list[tuple[str | None, str | None]]) -> np.ndarray:
    return fingerprints([pa.array([pair[place] for pair in pairs], pa.string()) for place in (0, 1)])


@settings(max_examples=200, deadline=None)
@given(rows)
def test_two_rows_have_one_fingerprint_exactly_when_they_are_equal(
    pairs: list[tuple[str | None, str | None]],
) -> None:
    found = [tuple(row) for row in prints(pairs).tolist()]
    for lane in (0, 1):
        assert [[x[lane] == y[lane] for y in found] for x in found] == [
            [x == y for y in pairs] for x in pairs
        ]


def test_a_fingerprint_does_not_depend_on_the_batch_or_the_type() -> None:
    values = pa.array(["x" * n for n in range(40)])
    whole = fingerprints([values])
    assert np.array_equal(fingerprints([values.slice(7, 5)]), whole[7:12])
    assert np.array_equal(fingerprints([values.cast(pa.binary())]), whole)
    assert np.array_equal(fingerprints([values.dictionary_encode().cast(pa.string())]), whole)


def test_a_border_between_columns_is_told() -> None:
    assert (
        len(
            {
                tuple(row)
                for row in prints(
                    [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), (None, "abc")]
                ).tolist()
            }
        )
        == 5
    )


@settings(max_examples=100, deadline=None)
@given(rows, rows)
def test_a_census_counts_each_distinct_row_in_each_set(
    a: list[tuple[str, str]], b: list[tuple[str, str]]
) -> None:
    in_a, in_b = Counter(a), Counter(b)
    expected = Counter((in_a[row], in_b[row]) for row in {*a, *b})
    parts = list(census([prints(a), prints(b)]))
    assert Counter(tuple(row) for part in parts for row in part.counts.tolist()) == expected
    found = {tuple(row) for part in parts for row in part.prints.tolist()}
    assert found == {tuple(row) for row in prints([*a, *b]).tolist()}


def test_rows_that_share_the_first_word_are_told_by_the_second() -> None:
    same_first = np.array([[5, 2], [5, 1], [5, 2], [7, 1], [5, 1]], dtype=np.uint64)
    (part,) = [part for part in census([same_first]) if len(part.prints)]
    assert dict(zip(map(tuple, part.prints.tolist()), part.counts[:, 0].tolist())) == {
        (5, 1): 2,
        (5, 2): 2,
        (7, 1): 1,
    }


def test_among_finds_the_wanted_rows() -> None:
    some = prints([("a", "b"), ("c", "d"), ("a", "d")])
    assert among(some, some[[2, 0]]).tolist() == [True, False, True]


@pytest.mark.parametrize("length", [7, 8, 9, 16, 17, 1000])
def test_every_byte_counts(length: int) -> None:
    base = bytearray(b"\0" * length)
    changed = [bytes(base[:place] + b"\1" + base[place + 1 :]) for place in range(length)]
    assert (
        len(np.unique(module.fingerprints([pa.array([bytes(base), *changed], pa.binary())])[:, 0]))
        == length + 1
    )
