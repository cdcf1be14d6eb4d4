"""The file of an option such as `--output`: what it may be, and what it never replaces."""

import os
import stat
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.failures import WrongUse
from pipelines.target_files import check_target, write_target
from tests.pipelines.queries.small_output import make_output


def test_a_pipe_or_a_device_is_refused_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(WrongUse, match="cannot write to"):
            check_target(path, "--output")
    output = make_output(tmp_path / "out")
    assert run(["query", str(output), "agent-summary", "--output", str(pipe)]) == 2
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for data in (b"a longer text", b"short"):
        check_target(path, "--output")
        write_target(path, "--output", data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_an_output_is_refused_by_whatever_name(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    (tmp_path / "link").symlink_to(output / "kpi_reports")
    with pytest.raises(WrongUse, match="is in the output"):
        check_target(tmp_path / "link" / "rows.csv", "--output")
    check_target(output / ".." / "rows.csv", "--output")


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (
        tmp_path / f"{'n' * 300}.csv",
        tmp_path / ("n" * 300) / "rows.csv",
        tmp_path / "loop" / "a.csv",
    ):
        with pytest.raises(WrongUse, match="cannot write to"):
            check_target(path, "--output")
