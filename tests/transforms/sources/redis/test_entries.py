"""What streams lost, as rows of `trimmed`: a row for each gap and reason, and no row takes the place of one
that tells more."""

import pytest

from schemas.tables import LOST, TRIMMED
from transforms.core.record_batches import make_empty
from transforms.sinks.row_merge import merge_rows
from transforms.sources.redis.entries import build_gaps
from transforms.sources.redis.positions import DELETED, RESET, Loss
from transforms.sources.redis.positions import TRIMMED as FRONT


def stored(*gaps: Loss) -> list[Loss]:
    """The gaps that a table holds after these have been written, one after the other."""
    rows = make_empty(LOST)
    for gap in gaps:
        rows = merge_rows(TRIMMED, rows, build_gaps([("s", gap)])).rows
    return [Loss(row["after"], row["message_id"], row["entries"], row["reason"]) for row in rows.to_pylist()]


def test_gaps_that_begin_at_one_entry_for_different_reasons_are_rows_of_their_own() -> None:
    gaps = [Loss("0-0", "0-0", 0, DELETED), Loss("0-0", "9-0", None, RESET), Loss("0-0", "8-0", 50, FRONT)]
    assert stored(*gaps) == stored(*reversed(gaps))
    assert set(stored(*gaps)) == set(gaps)


@pytest.mark.parametrize(("less", "more"), [("9-0", "10-0"), ("5-9", "5-10"), ("7-0", f"{2**64 - 1}-0")])
def test_of_two_resets_from_one_entry_the_one_that_ends_later_is_kept(less: str, more: str) -> None:
    first, second = Loss("1-0", less, None, RESET), Loss("1-0", more, None, RESET)
    assert stored(first, second) == stored(second, first) == [second]


def test_of_a_gap_that_is_found_again_the_larger_is_kept() -> None:
    first, second = Loss("1-0", "9-0", 3, FRONT), Loss("1-0", "12-0", 5, FRONT)
    assert stored(first, second) == stored(second, first) == [second]


def test_the_revision_of_a_reset_fits_its_column() -> None:
    rows = build_gaps([("s", Loss("1-0", f"{2**64 - 1}-{2**64 - 1}", None, RESET))])
    assert rows["revision"].to_pylist() == [2**63 - 1]
