"""Links to stored files."""

import os
from pathlib import Path

import pytest

from transforms.derived.snapshot import FileSnapshot
from transforms.sinks.parquet.output_files import OutputFile
from transforms.storage.local_folder import LocalFolder


def test_a_link_that_a_pass_left_is_not_written_to(tmp_path: Path) -> None:
    """To write to it would write into the stored file."""
    stored = tmp_path / "stored.parquet"
    stored.write_text("rows")
    (tmp_path / "other.parquet").write_text("other rows")
    work = tmp_path / "work"
    work.mkdir()
    os.link(stored, work / "0.parquet")
    with FileSnapshot(work) as snapshot, pytest.raises(FileExistsError):
        snapshot.hold(OutputFile("other.parquet", LocalFolder(tmp_path)))
    assert stored.read_text() == "rows"
