"""How a batch is divided into blocks, from a look into its archives."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.jobs import block_plan
from pipelines.jobs.backfill import fit_settings
from pipelines.jobs.block_plan import approximate_hours, estimate_reports, plan_blocks
from pipelines.jobs.cores import count_cores
from pipelines.settings import Settings
from tests.builders import NOON, messages, report
from tests.integration.archives import envelope, write
from transforms.history.blocks import Blocks
from transforms.sources.archives.archive_files import find_files

HOUR = int(NOON.timestamp()) // 3600


def read_hours(*documents: object, received_at: datetime | None = NOON) -> list[int]:
    """The hours that messages are laid under, counted from that of noon."""
    return (approximate_hours(messages(documents, received_at)) - HOUR).tolist()


def report_at(hour: float, number: int = 0) -> dict[str, object]:
    return report(number, at=NOON + timedelta(hours=hour))


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


def reports(**hours: int) -> dict[int, float]:
    """Reports by hour: `h3=10` are 10 in the fourth hour."""
    return {int(name[1:]): float(count) for name, count in hours.items()}


def day(count: float, hours: int = 24) -> dict[int, float]:
    return dict.fromkeys(range(hours), count)


@pytest.mark.parametrize("received_at", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_time_at_the_edge_of_the_calendar_has_its_hour(received_at: datetime) -> None:
    assert read_hours("{", received_at=received_at) == [(received_at - NOON) // timedelta(hours=1)]


def test_sparse_years_have_blocks_of_a_day() -> None:
    plan = plan_blocks(day(100, 24 * 365 * 3), workers=2, block_reports=500_000)
    assert plan == (Blocks(24, 1), 30)


@pytest.mark.parametrize(
    ("each_hour", "hours", "shards"),
    [
        (1_000, 24, 1),
        (500_000 / 24, 24, 1),
        (25_000, 12, 1),
        (50_000, 8, 1),
        (100_000, 4, 1),
        (250_000, 2, 1),
        (500_000, 1, 1),
        (500_001, 1, 2),
        (5_000_000, 1, 10),
    ],
)
def test_a_block_has_as_many_hours_as_fit_and_an_hour_that_does_not_fit_has_shards(
    each_hour: float, hours: int, shards: int
) -> None:
    plan = plan_blocks(day(each_hour, 240), workers=2, block_reports=500_000)
    assert plan.blocks == Blocks(hours, shards)


@pytest.mark.parametrize(
    ("each_hour", "minutes"), [(1, 30), (500_000, 30), (500_001, 20), (5_000_000, 3), (10**9, 1)]
)
def test_a_file_of_a_dense_hour_has_few_minutes(each_hour: int, minutes: int) -> None:
    assert plan_blocks(day(each_hour), 2, 500_000).file_minutes == minutes


def test_one_dense_hour_decides_for_all() -> None:
    plan = plan_blocks(day(10, 1000) | reports(h500=1_200_000), 2, 500_000)
    assert plan == (Blocks(1, 3), 12)


@pytest.mark.parametrize(("workers", "hours"), [(1, 12), (2, 6), (3, 4), (12, 1), (1024, 1)])
def test_there_are_some_blocks_for_each_worker(workers: int, hours: int) -> None:
    assert plan_blocks(day(10, 48), workers, 500_000).blocks == Blocks(hours, 1)


def test_nothing_is_one_block() -> None:
    assert plan_blocks({}, 2, 500_000) == (Blocks(24, 1), 30)


def test_each_estimate_is_of_about_as_many_reports_as_there_are(tmp_path: Path) -> None:
    lines = [envelope(report_at(number / 2000, number), number) for number in range(4000)]
    for place, name in enumerate(("a.ndjson", "b.json", "c.jsonl")):
        write(tmp_path / name, lines[place::3])
    estimate = estimate_reports(find_files([str(tmp_path)]))
    assert {hour - HOUR for hour in estimate} <= {0, 1}
    assert sum(estimate.values()) == pytest.approx(4000, rel=0.5)


def test_a_compressed_archive_is_estimated_larger_than_its_file(tmp_path: Path) -> None:
    lines = [envelope(report_at(0, number), number) for number in range(4000)]
    file = write(tmp_path / "a.ndjson.gz", lines)
    estimate = sum(estimate_reports(find_files([str(tmp_path)])).values())
    assert estimate > 4 * file.stat().st_size / len(lines[0])


def test_of_very_many_files_some_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write(tmp_path / f"{number:02}.ndjson", [envelope(report_at(number, number), number)])
    files = find_files([str(tmp_path)])
    whole = estimate_reports(files)
    assert {hour - HOUR for hour in whole} == set(range(30))
    monkeypatch.setattr(block_plan, "MOST_SAMPLES", 7)
    some = estimate_reports(files)
    assert len(some) <= 7
    assert sum(some.values()) == pytest.approx(sum(whole.values()), rel=0.3)


def test_what_cannot_be_read_or_is_empty_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "lost.ndjson").symlink_to(tmp_path / "nowhere")
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "cut.ndjson.gz").write_bytes(gzip.compress(b"x" * 1000)[:12])
    (tmp_path / "empty.ndjson").write_text("")
    assert estimate_reports(find_files([str(tmp_path)])) == {}


def fitted(folder: Path, **given: int) -> tuple[int, int, int]:
    settings, _ = fit_settings(find_files([str(folder)]), Settings(workers=2, **given))
    return settings.block_hours, settings.shards, settings.workers


def test_given_settings_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.ndjson", [envelope(report_at(0, number), number) for number in range(4000)])
    hours, shards, _ = fitted(tmp_path, block_reports=1000)
    assert (hours, shards > 1) == (1, True)
    assert fitted(tmp_path, block_reports=1000, shards=1) == (1, 1, 2)
    assert fitted(tmp_path, block_reports=1000, shards=7, block_hours=6) == (6, 7, 2)


def test_without_a_number_there_are_as_many_workers_as_cores(tmp_path: Path) -> None:
    write(tmp_path / "a.ndjson", [envelope(report_at(0), 1)])
    assert fit_settings(find_files([str(tmp_path)]), Settings())[0].workers == count_cores()
