"""Each hash depends on its value alone, and keeps the value that is stored."""

import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import agent
from transforms.core.hashing import (
    combine_words,
    digest_texts,
    fingerprint_rows,
    hash_ids,
    hash_texts,
    hash_uuids,
    mix,
    read_hex,
    write_hex,
)

ID = "74b77c9c9807b07682f931a560dcaabe"
texts = st.none() | st.text(st.sampled_from("ab\0é"), max_size=20)
rows = st.lists(st.tuples(texts, texts), max_size=12)


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_hashes_are_those_that_are_stored() -> None:
    assert mix(words(0, 1, 2**64 - 1)).tolist() == [0, 0x5692161D100B05E5, 0xB4D055FCF2CBBD7B]
    stored = [0, 0x50446C25AFBD3C6, 0x35C58E77DA4F83C9, 0x84099A43FBA10369]
    assert hash_texts(pa.array(["", "a", "1761134400000-0", "é"])).tolist() == stored
    uuids = pa.array([agent(0), agent(12345), str(uuid.UUID(int=2**128 - 1))])
    assert hash_uuids(uuids).tolist() == [0x200000000000, 0x812CE22B4ED9, 0x9E3779B97F4A]
    assert digest_texts([b""]).tolist() == [[0xCAE66941D9EFBD40, 0x4E4D88758EA67670]]


def test_the_halves_of_a_combination_are_the_sums_in_its_docstring() -> None:
    key, multiplier, size = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 2**64
    mixed = [int(mix(words((each + key * (slot + 1)) % size))[0]) for slot, each in enumerate((5, 2**64 - 1))]
    second = sum(each * (2 * slot + multiplier) for slot, each in enumerate(mixed))
    assert combine_words([words(5), words(2**64 - 1)], 1).tolist() == [
        [int(mix(words(total % size))[0]) for total in (sum(mixed), second)]
    ]
    assert combine_words([], 2).tolist() == [[0, 0], [0, 0]]


def test_the_order_of_words_matters_to_their_combination() -> None:
    assert combine_words([words(1), words(2)], 1).tolist() != combine_words([words(2), words(1)], 1).tolist()


def test_hex_digits_are_read_back_as_the_words_that_were_written() -> None:
    both = np.array([[0, 2**64 - 1], [0x74B77C9C9807B076, 0x82F931A560DCAABE]], np.uint64)
    assert write_hex(both).to_pylist() == ["0" * 16 + "f" * 16, ID]
    assert read_hex(write_hex(both)).tolist() == both.tolist()
    assert read_hex(pa.array(["f" * 32, ID]).slice(1)).tolist() == both[1:].tolist()
    assert read_hex(pa.array([], pa.string())).tolist() == []


def test_texts_have_a_hash_of_their_own_whatever_stands_beside_them() -> None:
    some = ["", "a", "b", "ab", "ba", "a\0", "1-0", "10-", "é" * 300, "é" * 301]
    hashes = hash_texts(pa.array(some)).tolist()
    assert len(set(hashes)) == len(some)
    assert hash_texts(pa.array(["x", *some]).slice(1)).tolist() == hashes
    assert [hash_texts(pa.array([text])).tolist() for text in some] == [[each] for each in hashes]
    assert hash_texts(pa.array([], pa.string())).tolist() == []


def test_every_digit_of_an_id_counts() -> None:
    changed = [ID[:place] + "#" + ID[place + 1 :] for place in range(32)]
    ids = pa.array([ID, *changed, ID], pa.string()).cast(pa.binary(32))
    hashes = hash_ids(ids).tolist()
    assert (len(set(hashes)), hashes[0]) == (33, hashes[-1])
    assert hash_ids(ids.slice(1)).tolist() == hashes[1:]


def fingerprint_pairs(pairs: list[tuple[str | None, str | None]]) -> np.ndarray:
    return fingerprint_rows([pa.array([pair[place] for pair in pairs], pa.string()) for place in (0, 1)])


@settings(max_examples=200, deadline=None)
@given(rows)
def test_two_rows_have_one_fingerprint_exactly_when_they_are_equal(
    pairs: list[tuple[str | None, str | None]],
) -> None:
    found = fingerprint_pairs(pairs).tolist()
    equal = [[x == y for y in pairs] for x in pairs]
    for lane in (0, 1):
        assert [[x[lane] == y[lane] for y in found] for x in found] == equal


def test_a_fingerprint_does_not_depend_on_the_batch_or_the_type() -> None:
    values = pa.array(["x" * n for n in range(40)])
    whole = fingerprint_rows([values])
    assert np.array_equal(fingerprint_rows([values.slice(7, 5)]), whole[7:12])
    assert np.array_equal(fingerprint_rows([values.cast(pa.binary())]), whole)
    assert np.array_equal(fingerprint_rows([values.dictionary_encode().cast(pa.string())]), whole)


def test_the_border_between_two_columns_counts() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), (None, "abc")]
    assert len({tuple(row) for row in fingerprint_pairs(pairs).tolist()}) == len(pairs)


@pytest.mark.parametrize("length", [7, 8, 9, 16, 17, 1000])
def test_every_byte_counts(length: int) -> None:
    base = b"\0" * length
    changed = [base[:place] + b"\1" + base[place + 1 :] for place in range(length)]
    prints = fingerprint_rows([pa.array([base, *changed], pa.binary())])
    assert len(np.unique(prints[:, 0])) == length + 1
