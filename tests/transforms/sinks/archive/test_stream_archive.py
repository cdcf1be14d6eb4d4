"""A streaming job's archive: what it may lack after a power cut is known, and nothing else is read again."""

import pickle
from pathlib import Path

import pytest

from tests.transforms.sinks.archive.test_archive_writer import ids, raw
from transforms.sinks.archive import stream_archive
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.archive.stream_archive import StreamArchive


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the machine's boot id is read."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    monkeypatch.setattr(stream_archive, "_BOOT_ID", path)
    return path


def test_an_archive_that_was_synced_since_the_machine_started_lacks_nothing(
    tmp_path: Path, boot: Path
) -> None:
    archive, (first, last, later) = StreamArchive(tmp_path / "archive"), ids([1, 2, 3])
    ArchiveWriter(archive.folder).append(raw([first, last]))
    assert archive.may_lack("kpi", last)
    archive.sync(["kpi"])
    assert [archive.may_lack("kpi", each) for each in (first, last, later)] == [False, False, True]
    assert archive.may_lack("other", first)


def test_after_a_restart_of_the_machine_an_archive_may_lack_what_it_had(tmp_path: Path, boot: Path) -> None:
    archive, (first,) = StreamArchive(tmp_path / "archive"), ids([1])
    ArchiveWriter(archive.folder).append(raw([first]))
    archive.sync(["kpi"])
    boot.write_text("second\n")
    assert archive.may_lack("kpi", first)
    boot.unlink()
    assert archive.may_lack("kpi", first)


def test_two_of_one_folder_are_equal_wherever_they_are(tmp_path: Path) -> None:
    archive = StreamArchive(tmp_path)
    assert pickle.loads(pickle.dumps(archive)) == archive
    assert archive != StreamArchive(tmp_path / "other")
