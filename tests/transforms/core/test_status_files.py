"""Status files: replaced as a whole; one that cannot be written or read stops nobody."""

import logging
from pathlib import Path

import pytest

from transforms.core.status_files import read_status, write_status


def test_a_status_is_read_as_it_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "reader-0.json"
    assert read_status(path, dict[str, int]) is None
    write_status(path, {"read": 1})
    write_status(path, {"read": 2})
    assert read_status(path, dict[str, int]) == {"read": 2}
    assert [each.name for each in tmp_path.iterdir()] == ["reader-0.json"]


@pytest.mark.parametrize("torn", ["", '{"read": 2', "[1]", "\0\0", '{"read": "2"}'])
def test_a_torn_status_counts_as_none(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "reader-0.json"
    path.write_text(torn)
    assert read_status(path, dict[str, int]) is None


def test_a_failure_is_logged_once_until_a_write_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "reader-0.json"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            write_status(path, {})
        assert len(caplog.records) == 1
        path.parent.mkdir()
        write_status(path, {})
        (path.parent / path.name).unlink()
        path.parent.rmdir()
        write_status(path, {})
    assert len(caplog.records) == 2
