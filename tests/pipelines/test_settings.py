"""Settings: which source wins, and what is told of a value that cannot be."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import PREFIX, Settings, SettingsError, load
from tests.builders import NOON


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "kpiflow.toml"
    path.write_text("shards = 2\nmin_samples = 20\niqr_factor = 2.0\n")
    return path


def test_a_flag_counts_before_the_environment_before_the_file_before_the_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPIFLOW_SHARDS", "3")
    monkeypatch.setenv("KPIFLOW_MIN_SAMPLES", "30")
    settings, origins = load({"shards": "4"}, config)
    assert (settings.shards, settings.min_samples, settings.iqr_factor, settings.max_depth) == (
        4,
        30,
        2.0,
        32,
    )
    assert origins["shards"] == "flag"
    assert origins["min_samples"] == "KPIFLOW_MIN_SAMPLES"
    assert origins["iqr_factor"] == str(config)
    assert origins["max_depth"] == "default"


def test_a_value_is_told_to_be_given_even_if_it_is_the_default() -> None:
    assert load({"shards": Settings().shards})[1]["shards"] == "flag"
    assert load({"shards": None})[1]["shards"] == "default"


def test_every_setting_says_where_it_came_from_and_what_it_means() -> None:
    _, origins = load()
    assert origins == dict.fromkeys(Settings.model_fields, "default")
    assert [name for name, declared in Settings.model_fields.items() if not declared.description] == []


def test_an_unknown_name_in_the_file_is_refused_by_name(config: Path) -> None:
    config.write_text("iqr_facto = 2.0\n")
    with pytest.raises(SettingsError, match="iqr_facto"):
        load(config=config)


@pytest.mark.parametrize("text", ["shards = ", "[shards]\nx = 1\n", "\xff"])
def test_a_file_that_cannot_be_understood_is_refused(config: Path, text: str) -> None:
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"shards|cannot read the settings from .*kpiflow\.toml"):
        load(config=config)


@pytest.mark.parametrize("place", ["gone.toml", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(SettingsError, match=r"no file .*; give --config an existing TOML file"):
        load(config=tmp_path / place)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_payload_bytes", 1023),
        ("max_depth", 3),
        ("max_depth", 513),
        ("stale_seconds", 59),
        ("future_seconds", -1),
        ("iqr_factor", 0),
        ("iqr_factor", "three"),
        ("iqr_factor", "nan"),
        ("min_samples", 3),
        ("flat_margin", 1),
        ("reference_latency_ms", 0),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../etc/passwd"),
        ("peak_start_hour", 24),
        ("peak_end_hour", 0),
        ("file_minutes", 7),
        ("file_minutes", 0),
        ("file_minutes", 120),
        ("shards", 0),
        ("shards", 1.5),
        ("read_mb", 0),
        ("block_reports", 999),
        ("block_hours", 5),
        ("block_hours", 48),
        ("block_hours", -1),
        ("workers", -1),
        ("workers", 1025),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        load({name: value})


def test_a_wrong_value_in_the_environment_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPIFLOW_FILE_MINUTES", "7")
    with pytest.raises(SettingsError, match=r"file_minutes = '7': .*must divide 60"):
        load()


def test_every_setting_is_declared_in_one_group() -> None:
    declared = [name for names in Settings.groups().values() for name in names]
    assert sorted(declared) == sorted(Settings.model_fields)
    assert all(group.title and group.__doc__ for group in Settings.groups())


def test_settings_that_shape_rows_are_those_of_the_groups_that_do() -> None:
    assert set(Settings().row_settings()) == {
        *("max_payload_bytes", "max_depth", "custom_metric_limit", "stale_seconds", "future_seconds"),
        *("iqr_factor", "min_samples", "flat_margin"),
        *("reference_latency_ms", "time_zone", "peak_start_hour", "peak_end_hour"),
        "file_minutes",
    }


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPIFLOW_REDIS_PASSWORD", "sesame")
    settings, _ = load()
    assert "sesame" not in str(settings) + repr(settings) + settings.model_dump_json()


def test_the_zone_is_the_one_that_is_named() -> None:
    assert NOON.astimezone(Settings(time_zone="Asia/Kathmandu").zone).utcoffset() == timedelta(
        hours=5, minutes=45
    )
