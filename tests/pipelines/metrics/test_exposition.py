"""The metrics of a job: their names do not change, and no end of a process changes a total."""

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipelines.jobs.job_description import FOLDER, JOB
from pipelines.jobs.run_record import begin_run
from pipelines.jobs.stream_job import _set_status_aside
from pipelines.metrics.exposition import make_metrics, make_page
from pipelines.metrics.numbers import SourceWatch, read_numbers
from runners.progress import Progress
from tests.pipelines.metrics.jobs import KEY, Home, Source
from transforms.encryption.key_list import KEYS, begin_list, format_list

FROZEN = {
    "kpiflow_build_info": {"version"},
    "kpiflow_messages_arrived_total": {"source"},
    "kpiflow_messages_read_total": {"source"},
    "kpiflow_outcomes_total": {"outcome", "reason"},
    "kpiflow_expired_total": {"kind"},
    "kpiflow_trimmed_total": set(),
    "kpiflow_lag_entries": {"source"},
    "kpiflow_watermark_delay_seconds": set(),
    "kpiflow_stage_latency_seconds_bucket": {"stage", "le"},
    "kpiflow_stage_latency_seconds_count": {"stage"},
    "kpiflow_stage_latency_seconds_sum": {"stage"},
    "kpiflow_running": set(),
    "kpiflow_ready": set(),
    "kpiflow_source_up": set(),
    "kpiflow_run_age_seconds": set(),
    "kpiflow_renewal_age_seconds": set(),
    "kpiflow_renewal_interval_seconds": set(),
    "kpiflow_checkpoint_age_seconds": set(),
    "kpiflow_checkpoint_bytes": set(),
    "kpiflow_checkpoint_interval_seconds": set(),
    "kpiflow_starts_total": set(),
    "kpiflow_restarts_total": set(),
    "kpiflow_renewals_total": set(),
    "kpiflow_sink_delay_seconds": {"sink"},
    "kpiflow_sink_waiting_seconds": {"sink"},
    "kpiflow_attempts_total": {"peer"},
    "kpiflow_errors_total": {"peer"},
    "kpiflow_cpu_seconds_total": {"role"},
    "kpiflow_memory_bytes": {"role"},
    "kpiflow_memory_limit_bytes": set(),
    "kpiflow_cpu_limit_cores": set(),
    "kpiflow_quality_score": {"source", "score"},
    "kpiflow_quality_threshold": {"source", "score"},
    "kpiflow_quality_messages": {"source", "score"},
    "kpiflow_quality_age_seconds": {"source"},
    "kpiflow_key_age_seconds": {"sink"},
    "kpiflow_derive_rows": {"sink"},
    "kpiflow_derive_seconds": {"sink"},
    "kpiflow_derive_delay_seconds": {"sink"},
}
"""Dashboards and rules of users have these names: none may change or go."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.stop()


@pytest.fixture
def source() -> Source:
    return Source()


def read(home: Home, source: Source) -> dict[str, float]:
    """The samples of a scrape, as Prometheus writes them."""
    watch = SourceWatch(source)
    watch.ask()
    text = make_page(home.path, watch).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{each.name}{sorted(each.labels.items()) or ''}": each.value for each in samples}


def totals(found: dict[str, float]) -> dict[str, float]:
    """Totals that are derived from state; starts are no messages."""
    return {name: value for name, value in found.items() if re.search("_total|_count|_sum|_bucket", name)
            and not name.startswith("kpiflow_starts")}  # fmt: skip


def test_the_names_and_labels_are_frozen(home: Home, source: Source) -> None:
    watch = SourceWatch(source)
    watch.ask()
    home.write_sink(waiting_seconds=1)
    home.write_quality(minutes_ago=1, received=100, incomplete=3)
    home.derive(rows=900, seconds=2.0, delay_seconds=95.0)
    (home.path / KEYS).write_bytes(format_list(begin_list(datetime.now(UTC))))
    samples = [each for family in make_metrics(read_numbers(home.path, watch)) for each in family.samples]
    assert {each.name: set(each.labels) for each in samples} == FROZEN


def test_the_archive_of_a_stream_has_an_age_of_its_keys(home: Home, source: Source, tmp_path: Path) -> None:
    path = home.path / FOLDER / JOB
    path.write_text(json.dumps(json.loads(path.read_text()) | {"archive": str(tmp_path)}))
    (tmp_path / KEYS).write_bytes(format_list(begin_list(datetime.now(UTC) - timedelta(hours=1))))
    families = make_metrics(read_numbers(home.path, SourceWatch(source)))
    (age,) = (each for family in families for each in family.samples if "key_age" in each.name)
    assert (age.labels, 3600 <= age.value < 4000) == ({"sink": str(tmp_path)}, True)


def test_each_number_is_that_of_the_state(home: Home, source: Source) -> None:
    found = read(home, source)
    expected = {
        f"kpiflow_messages_arrived_total[('source', '{KEY}')]": 120,
        f"kpiflow_messages_read_total[('source', '{KEY}')]": 80,
        f"kpiflow_lag_entries[('source', '{KEY}')]": 40,
        "kpiflow_outcomes_total[('outcome', 'report'), ('reason', '')]": 70,
        "kpiflow_outcomes_total[('outcome', 'quarantined'), ('reason', 'schema')]": 6,
        "kpiflow_outcomes_total[('outcome', 'quarantined'), ('reason', 'json')]": 3,
        "kpiflow_expired_total[('kind', 'task')]": 5,
        "kpiflow_trimmed_total": 20,
        "kpiflow_stage_latency_seconds_count[('stage', 'validated')]": 10,
        "kpiflow_errors_total[('peer', 'redis')]": 4,
        "kpiflow_cpu_seconds_total[('role', 'worker')]": 12.5,
        "kpiflow_checkpoint_bytes": 1000,
        "kpiflow_running": 1,
        "kpiflow_ready": 1,
        "kpiflow_source_up": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found[f"kpiflow_sink_delay_seconds[('sink', '{home.path}')]"] == pytest.approx(2.0, abs=0.1)
    assert found["kpiflow_watermark_delay_seconds"] == pytest.approx(10.0, abs=1.0)
    assert found["kpiflow_memory_bytes[('role', 'command')]"] > 1e7
    assert [found[f"kpiflow_stage_latency_seconds_bucket[('le', '{le}'), ('stage', 'validated')]"]
            for le in ("0.025", "0.05", "300.0", "+Inf")] == [0, 9, 9, 10]  # fmt: skip


def test_a_score_is_that_of_the_newest_quarter_of_an_hour(home: Home, source: Source) -> None:
    home.write_quality(minutes_ago=40, received=500, incomplete=500)
    home.write_quality(minutes_ago=5, received=300, incomplete=10)
    home.write_quality(minutes_ago=2, received=100, incomplete=10)
    found = read(home, source)
    own = f"[('score', 'completeness'), ('source', '{KEY}')]"
    assert found[f"kpiflow_quality_score{own}"] == pytest.approx(380 / 400)
    assert (found[f"kpiflow_quality_threshold{own}"], found[f"kpiflow_quality_messages{own}"]) == (0.98, 400)
    assert 0 < found[f"kpiflow_quality_age_seconds[('source', '{KEY}')]"] < 200


def test_the_last_pass_of_deriving_is_in_the_metrics(home: Home, source: Source) -> None:
    home.derive(rows=900, seconds=2.0, delay_seconds=None)
    found = read(home, source)
    own = f"[('sink', '{home.path}')]"
    assert (found[f"kpiflow_derive_rows{own}"], found[f"kpiflow_derive_seconds{own}"]) == (900, 2)
    assert f"kpiflow_derive_delay_seconds{own}" not in found


def test_a_kill_and_a_resume_change_no_total(home: Home, source: Source) -> None:
    before = totals(read(home, source))
    home.stop()
    assert totals(read(home, source)) == before
    for step in (lambda: begin_run(home.folder, 10, 1800), lambda: _set_status_aside(home.folder), home.run):
        step()
        assert totals(read(home, source)) == before
    home.place_reader(60, 120)
    assert totals(read(home, source)) == before
    home.place_reader(100, 120)
    key = f"kpiflow_messages_read_total[('source', '{KEY}')]"
    assert totals(read(home, source)) == before | {key: 100}


def test_what_is_not_known_is_left_out(home: Home, source: Source) -> None:
    source.is_up = False
    shutil.rmtree(home.folder / "outcomes")
    shutil.rmtree(home.folder / "checkpoints")
    names = {name.partition("[")[0] for name in read(home, source)}
    assert not names & {
        "kpiflow_messages_arrived_total", "kpiflow_outcomes_total", "kpiflow_trimmed_total",
        "kpiflow_checkpoint_age_seconds",
    }  # fmt: skip
    assert read(home, source)["kpiflow_source_up"] == 0


def test_a_restart_in_a_loop_is_told_from_reading(home: Home, source: Source) -> None:
    assert read(home, source)["kpiflow_ready"] == 1
    home.complete_checkpoint(seconds_ago=5)
    home.keeper.follow(Progress("running", restarts=1))
    found = read(home, source)
    assert (found["kpiflow_ready"], found["kpiflow_restarts_total"], found["kpiflow_running"]) == (0, 1, 1)
    time.sleep(0.01)
    home.complete_checkpoint()
    assert read(home, source)["kpiflow_ready"] == 1


def test_a_scrape_takes_no_longer_however_many_files_there_are(home: Home, source: Source) -> None:
    """10M reports of a stream are about 10,000 files of a minute in each of some tables."""
    for hour in range(170):
        folder = home.path / "kpi_reports" / f"date=2025-10-{hour // 24 + 1:02}" / f"hour={hour % 24:02}"
        folder.mkdir(parents=True)
        for minute in range(60):
            (folder / f"{hour % 24:02}{minute:02}.parquet").touch()
    make_page(home.path)
    began = time.process_time()
    with watch_files() as used:
        for _ in range(10):
            make_page(home.path)
    assert (time.process_time() - began) / 10 < 0.05
    assert [path for path in used if str(home.path / "kpi_reports") in path] == []
    assert len(used) / 10 < 200


_used: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _used is not None and event in ("open", "os.listdir", "os.scandir"):
        _used.append(str(arguments[0]))


@contextmanager
def watch_files() -> Iterator[list[str]]:
    """The files and folders that Python opens."""
    global _used
    if not hasattr(watch_files, "is_hooked"):
        sys.addaudithook(_hook)
        watch_files.is_hooked = True  # type: ignore[attr-defined]
    _used = found = []
    yield found
    _used = None
