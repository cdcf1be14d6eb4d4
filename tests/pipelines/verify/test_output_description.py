"""The description of an output folder: who may write into it, who may read it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from pipelines.verify.output_description import read_row_settings, require_output
from schemas.kinds import KINDS
from tests.outputs import open_output

PLAIN = Settings.model_construct().model_copy(update={"file_minutes": 10})


def settings(**values: Any) -> Settings:
    return PLAIN.model_copy(update=values)


def edited(path: Path, **parts: Any) -> Path:
    """The output with parts of its description replaced."""
    open_output(path, PLAIN, create=True)
    file = path / "_kpiflow.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return path


def test_a_new_output_is_described_once_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    open_output(path, PLAIN, create=True)
    description = json.loads((path / "_kpiflow.json").read_text())
    schemas = dict.fromkeys(KINDS, 1)
    assert description == {"layout": 2, "schemas": schemas, "settings": PLAIN.row_settings()}
    assert [entry.name for entry in path.iterdir()] == ["_kpiflow.json"]
    assert open_output(path, PLAIN, create=True) == open_output(path, PLAIN, create=False) == PLAIN
    assert require_output(path) == path


def test_files_span_what_a_new_output_should_have_and_afterwards_what_it_has(tmp_path: Path) -> None:
    assert open_output(tmp_path, Settings(), create=True, file_minutes=1).file_minutes == 1
    assert open_output(tmp_path, Settings(), create=True, file_minutes=30).file_minutes == 1
    assert open_output(tmp_path, Settings(), create=False).file_minutes == 1
    with pytest.raises(WrongUse, match="file_minutes is 30 now and was 1"):
        open_output(tmp_path, Settings(file_minutes=30), create=True)


def test_settings_that_only_shape_the_work_may_differ(tmp_path: Path) -> None:
    open_output(tmp_path, PLAIN, create=True)
    open_output(tmp_path, settings(shards=3, read_mb=1), create=True)


@pytest.mark.parametrize("create", [True, False])
def test_settings_that_shape_rows_are_refused_by_name_with_both_values_and_the_mend(
    tmp_path: Path, create: bool
) -> None:
    open_output(tmp_path, settings(iqr_factor=1.5), create=True)
    with pytest.raises(WrongUse) as refused:
        open_output(tmp_path, settings(file_minutes=5), create=create)
    assert "iqr_factor is 3.0 now and was 1.5; file_minutes is 5 now and was 10" in str(refused.value)
    assert "(--iqr-factor 1.5 --file-minutes 10), or name another output" in refused.value.fix


def test_a_setting_younger_than_the_output_counts_as_its_default(tmp_path: Path) -> None:
    path = edited(tmp_path, settings={"file_minutes": 10})
    assert open_output(path, PLAIN, create=False) == PLAIN
    assert read_row_settings(path) == PLAIN.row_settings()
    with pytest.raises(WrongUse, match="min_samples is 40 now and was 30"):
        open_output(path, settings(min_samples=40), create=False)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"layout": 3}, "layout 3"),
        ({"schemas": {"kpi_report": 2}}, "kpi_report v2"),
        ({"schemas": {"other": 1}}, "other v1"),
        ({"settings": {"colour": "red"}}, "setting colour"),
    ],
)
def test_what_a_newer_version_wrote_is_refused_to_writers_and_readers(
    tmp_path: Path, parts: dict[str, Any], named: str
) -> None:
    path = edited(tmp_path, **parts)
    for opened in (lambda: require_output(path), lambda: open_output(path, PLAIN, create=True)):
        with pytest.raises(WrongUse, match=f"written by a newer kpiflow.*{named}") as refused:
            opened()
        assert "upgrade" in refused.value.fix


def test_an_older_layout_is_read_and_not_written_to(tmp_path: Path) -> None:
    path = edited(tmp_path, layout=1)
    assert require_output(path) == path
    for refused in (lambda: open_output(path, PLAIN, create=True), lambda: read_row_settings(path)):
        with pytest.raises(WrongUse, match=r"has layout 1 and can only be read: layout 2") as caught:
            refused()
        assert all(
            text in caught.value.fix
            for text in ("kpiflow show", "parity", "backfill --input ARCHIVE --output NEW")
        )


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(WrongUse, match=r"holds thesis\.tex but no _kpiflow\.json"):
        open_output(tmp_path, PLAIN, create=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_fresh_volume_is_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert open_output(tmp_path, PLAIN, create=True) == PLAIN


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layout": "1", "schemas": {}, "settings": {}}'])
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    open_output(tmp_path, PLAIN, create=True)
    (tmp_path / "_kpiflow.json").write_text(text)
    with pytest.raises(WrongUse, match="is damaged"):
        require_output(tmp_path)


def test_reading_needs_an_output_and_says_how_to_make_one(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "gone", "there is no folder"), (tmp_path, "there is no output in")):
        with pytest.raises(WrongUse, match=what) as refused:
            require_output(path)
        assert f"kpiflow backfill --input FILES --output {path}" in refused.value.fix
        with pytest.raises(WrongUse, match=what):
            open_output(path, PLAIN, create=False)
    (tmp_path / "file").touch()
    with pytest.raises(WrongUse, match="is no output of kpiflow: it holds file"):
        require_output(tmp_path)
    with pytest.raises(WrongUse, match="is a file"):
        open_output(tmp_path / "file", PLAIN, create=True)
