"""Messages sorted by hour on disk, and cut into slices."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from pipelines.jobs import time_slices
from pipelines.jobs.time_slices import ReadSpool, Spool, approximate_hours, read
from tests.builders import NOON, messages, report
from transforms.core.record_batches import RAW, make_empty

HOUR = int(NOON.timestamp()) // 3600


def read_hours(*documents: object, received_at: datetime | None = NOON) -> list[int]:
    """The hours that messages are laid under, counted from that of noon."""
    return (approximate_hours(messages(documents, received_at)) - HOUR).tolist()


def report_at(hour: float, number: int = 0) -> dict[str, object]:
    return report(number, at=NOON + timedelta(hours=hour))


def fill_spool(folder: Path, *counts: int) -> Spool:
    """A spool with so many messages in the hour of noon, the next hour, and so on."""
    spooled = Spool(folder)
    documents = [report_at(hour, number) for hour, count in enumerate(counts) for number in range(count)]
    spooled.add(messages(documents))
    return spooled


def count_rows(slices: list[list[Path]]) -> list[list[int]]:
    return [[sum(batch.num_rows for batch in read(path)) for path in part] for part in slices]


def test_a_message_belongs_to_the_hour_that_its_bytes_name() -> None:
    odd = ('{"recorded_at" :\t"2025-10-22t15:', b'\xff"recorded_at":"2025-10-22T16:\xff')
    assert read_hours(report_at(0), report_at(0.99), report_at(1), report_at(-1), *odd) == [0, 0, 1, -1, 3, 4]


def test_an_offset_from_utc_counts() -> None:
    """12:30 at two hours east is 10:30 UTC, and at half an hour west 13:00."""
    rests = ("Z", "+00:00", "+02:00", ".250+00:45", "-00:30", "-05:29")
    named = [f'{{"recorded_at":"2025-10-22T12:30:00{rest}"}}' for rest in rests]
    assert read_hours(*named) == [0, 0, -2, -1, 1, 5]
    assert read_hours('{"recorded_at":"2025-10-22T12:30:00+02"}') == [0]


def test_what_names_no_hour_belongs_to_that_in_which_it_was_received() -> None:
    broken = [
        "{",
        "",
        '{"recorded_at":"2025-99-99T99:00:00Z"}',
        '{"recorded_at":"soon"}',
        '{"recorded_at":12}',
    ]
    assert read_hours(*broken, received_at=NOON + timedelta(hours=2)) == [2] * len(broken)
    assert read_hours("{", received_at=datetime(1969, 12, 31, 23, 30, tzinfo=UTC)) == [-1 - HOUR]


def test_what_names_no_hour_and_was_received_nobody_knows_when_belongs_to_the_first() -> None:
    assert read_hours("{", received_at=None) == [-HOUR]


def test_every_message_comes_back_as_it_was(tmp_path: Path) -> None:
    odd = messages([report_at(0), b"\xff\x00", report_at(2), "", report_at(0, 1)], None)
    spooled = Spool(tmp_path)
    spooled.add(odd)
    spooled.add(messages([report_at(0, 2)]))
    paths = [path for part in spooled.slices(1) for path in part]
    back = pa.Table.from_batches([batch for path in paths for batch in read(path)], RAW)
    assert sorted(back.to_pylist(), key=repr) == sorted(
        [*odd.to_pylist(), *messages([report_at(0, 2)]).to_pylist()], key=repr
    )


def test_messages_of_an_hour_keep_their_order(tmp_path: Path) -> None:
    spooled = Spool(tmp_path)
    spooled.add(messages([report_at(0), report_at(1), report_at(0, 1)]))
    spooled.add(messages([report_at(0, 2)]))
    (first, _) = (part[0] for part in spooled.slices(1))
    assert [row["message_id"] for batch in read(first) for row in batch.to_pylist()] == ["m0", "m2", "m0"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (100, [[2, 3, 1, 4]]),
        (6, [[2, 3, 1], [4]]),
        (5, [[2, 3], [1, 4]]),
        (4, [[2], [3, 1], [4]]),
        (1, [[2], [3], [1], [4]]),
    ],
)
def test_slices_are_consecutive_hours_and_no_hour_is_cut(
    tmp_path: Path, rows: int, expected: list[list[int]]
) -> None:
    assert count_rows(fill_spool(tmp_path, 2, 3, 1, 4).slices(rows)) == expected


def test_slices_go_from_old_to_new_whatever_came_first(tmp_path: Path) -> None:
    spooled = Spool(tmp_path)
    for hour in (5, -5, 0):
        spooled.add(messages([report_at(hour)]))
    assert [path.name for (path,) in spooled.slices(1)] == [f"{HOUR + hour}.arrows" for hour in (-5, 0, 5)]


def test_nothing_gives_no_slice(tmp_path: Path) -> None:
    spooled = Spool(tmp_path)
    assert spooled.slices(1000) == []
    spooled.add(make_empty(RAW))
    assert spooled.slices(1000) == []


def test_small_parts_are_read_together_up_to_a_good_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = Spool(tmp_path)
    for number in range(6):
        spooled.add(messages([report_at(0, number)]))
    ((path,),) = spooled.slices(1000)
    assert [batch.num_rows for batch in read(path)] == [6]
    monkeypatch.setattr(time_slices, "BATCH_BYTES", 1)
    assert [batch.num_rows for batch in read(path)] == [1] * 6


def test_the_transform_reads_the_files_it_is_given(tmp_path: Path) -> None:
    ((noon, _), _) = fill_spool(tmp_path, 2, 3, 4).slices(5)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        counted = pipeline | ReadSpool([noon]) | beam.Map(lambda batch: batch.num_rows)
        assert_that(counted, equal_to([2]))
