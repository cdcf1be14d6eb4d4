"""Batches in the files of a spool."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from transforms.core.batch_spool import BatchSpool
from transforms.core.errors import OutputFull

ROWS = pa.RecordBatch.from_pydict({"n": list(range(1000)), "text": [None, "é" * 50] * 500})


def rows(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": [number] * (1 + number % 100)})


def test_batches_of_several_schemas_come_back_in_any_order(tmp_path: Path) -> None:
    spool = BatchSpool(tmp_path)
    batches = [ROWS, rows(3), ROWS.slice(7, 2), rows(4).slice(0, 0)]
    references = [spool.write(batch) for batch in batches]
    for reference, batch in reversed(list(zip(references, batches))):
        assert spool.read(reference).equals(batch)


def test_a_slice_takes_the_space_of_its_rows(tmp_path: Path) -> None:
    BatchSpool(tmp_path).write(ROWS.slice(0, 1))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 1000


def test_threads_share_a_spool(tmp_path: Path) -> None:
    spool = BatchSpool(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        references = list(pool.map(lambda number: spool.write(rows(number)), range(400)))
        found = list(pool.map(spool.read, references))
    assert [batch.equals(rows(number)) for number, batch in enumerate(found)] == [True] * 400


def test_forked_processes_have_files_of_their_own_and_read_those_of_the_others(tmp_path: Path) -> None:
    spool = BatchSpool(tmp_path)
    mine = spool.write(rows(1))
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        same = spool.read(mine).equals(rows(1))
        os.write(send, spool.write(rows(2)) if same else b"")
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(receive, 100)
    assert spool.read(theirs).equals(rows(2))
    assert spool.read(spool.write(rows(3))).equals(rows(3))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_in_small_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, preadv = os.pwrite, os.preadv

    def write_little(file: int, data: memoryview, start: int) -> int:
        return pwrite(file, data[:1000], start)

    def read_little(file: int, buffers: list[memoryview], start: int) -> int:
        return preadv(file, [buffers[0][:700]], start)

    monkeypatch.setattr(os, "pwrite", write_little)
    monkeypatch.setattr(os, "preadv", read_little)
    spool = BatchSpool(tmp_path)
    references = [spool.write(ROWS), spool.write(rows(1))]
    assert [spool.read(each).equals(batch) for each, batch in zip(references, (ROWS, rows(1)))] == [True] * 2


def test_a_full_disk_is_an_error_that_names_the_folder_and_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = BatchSpool(tmp_path)
    known = spool.write(rows(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        named = rf"no space left for {re.escape(str(tmp_path))}; free some and run the same command again"
        with pytest.raises(OutputFull, match=named):
            spool.write(rows(2))
    assert spool.read(known).equals(rows(1))
    assert spool.read(spool.write(rows(2))).equals(rows(2)), "it goes on where there is space again"


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    spool = BatchSpool(tmp_path)
    reference = spool.write(ROWS)
    (file,) = tmp_path.iterdir()
    os.truncate(file, 100)
    with pytest.raises(EOFError, match="ends after 100"):
        spool.read(reference)
