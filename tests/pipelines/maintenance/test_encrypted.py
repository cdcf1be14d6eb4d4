"""An encrypted output that is sealed and moved: encrypted on each root, with the rows of a plain one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.verify.table_scan import scan
from tests.pipelines.maintenance.stored import make_output
from tests.pipelines.maintenance.test_maintain import DATES, FOLDERS, list_names, maintain
from transforms.encryption.key_ring import KeySource, add_source, find_writing_key, forget_keys
from transforms.encryption.master_key import KeyFile
from transforms.sinks.parquet.parquet_file import encode_file, is_encrypted, read_file
from transforms.storage.local_folder import LocalFolder


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """A folder with `plain/out`, and with the same as `secret/out`, encrypted."""
    forget_keys()
    KeyFile(tmp_path / "master.key").create(datetime.now(UTC))
    make_output(tmp_path / "plain" / "out")
    output = make_output(tmp_path / "secret" / "out")
    source = KeySource(LocalFolder(output), str(tmp_path / "master.key"))
    source.begin()
    use_keys(tmp_path)
    for path in output.rglob("*.parquet"):
        path.write_bytes(encode_file(read_file(path), key=find_writing_key(LocalFolder(output))))
    yield tmp_path
    forget_keys()


def use_keys(top: Path) -> None:
    """Begin as another process does: of the keys only the output and the master key are known."""
    forget_keys()
    add_source(LocalFolder(top / "secret" / "out"), str(top / "master.key"))


def test_days_are_encrypted_on_each_root_and_read_as_those_of_a_plain_output(top: Path) -> None:
    for at in (*DATES, DATES[-1] + timedelta(hours=2)):
        for name in ("plain", "secret"):
            use_keys(top)
            maintain(top / name, at, master_key=str(top / "master.key") if name == "secret" else None)
        assert list_names(top / "plain") == list_names(top / "secret")
        assert all(is_encrypted(path) for path in (top / "secret").rglob("*.parquet"))
        use_keys(top)
        for table in FOLDERS.values():
            plain, secret = (
                [batch.to_pylist() for batch in scan(top / name / "out", table)]
                for name in ("plain", "secret")
            )
            assert plain == secret
            assert sum(map(len, plain)) == 40
    assert {name.split("/")[1] for name in list_names(top / "secret") if "/tasks/" not in name} == {"cold"}
