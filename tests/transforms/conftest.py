"""Places for files, as tests of storage, sinks and sources need them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import S3Server
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(params=["folder", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder, and a part of a bucket, that are empty."""
    if request.param == "folder":
        return LocalFolder(tmp_path / "out")
    server: S3Server = request.getfixturevalue("bucket_server")
    return server.storage("bucket", f"tests/{tmp_path.name}")
