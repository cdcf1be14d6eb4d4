"""What doctor says about the encryption of a volume and of a bucket."""

import os
from pathlib import Path

import boto3

from pipelines.verify.at_rest import describe_bucket, describe_volume
from tests.s3 import S3Server
from transforms.sinks.parquet.parquet_store import ParquetStore


def make_devices(root: Path, folder: Path, *layers: tuple[str, str]) -> None:
    """A /sys in which the device of a folder is the first layer, on the second ...: name and dm uuid."""
    number = os.stat(folder).st_dev
    blocks = root / "sys/block"
    for place, (name, uuid) in enumerate(layers):
        (blocks / name / "slaves").mkdir(parents=True)
        if uuid:
            (blocks / name / "dm").mkdir()
            (blocks / name / "dm/uuid").write_text(f"{uuid}\n")
        if place:
            (blocks / layers[place - 1][0] / "slaves" / name).symlink_to(blocks / name)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}").symlink_to(blocks / layers[0][0])


def test_dm_crypt_is_found_below_other_layers(tmp_path: Path) -> None:
    make_devices(tmp_path, tmp_path, ("dm-1", "LVM-abc"), ("dm-0", "CRYPT-LUKS2-abc-root"), ("sda2", ""))
    assert describe_volume(tmp_path / "new" / "out", tmp_path) == ("dm-crypt (dm-0) is below the folder", "")


def test_a_plain_disk_is_called_so_with_what_to_do(tmp_path: Path) -> None:
    make_devices(tmp_path, tmp_path, ("sda2", ""))
    found, advice = describe_volume(tmp_path, tmp_path)
    assert "dm-crypt is not below the folder (sda2)" in found
    assert "--encrypt" in advice


def test_what_is_on_no_block_device_cannot_be_seen(tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    (tmp_path / "proc/self").mkdir(parents=True)
    line = f"40 1 {os.major(number)}:{os.minor(number)} / /mnt rw shared:1 - nfs4 server:/a rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(line)
    assert describe_volume(tmp_path, tmp_path)[0].startswith("cannot be seen, the file system (nfs4)")


def test_the_server_of_a_bucket_is_asked() -> None:
    with S3Server() as server:
        for name in ("plain", "kms"):
            server.make_bucket(name)
        client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
        rule = {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/kpi"}
        }
        client.put_bucket_encryption(Bucket="kms", ServerSideEncryptionConfiguration={"Rules": [rule]})
        found = {
            name: describe_bucket(ParquetStore(server.storage(name))) for name in ("plain", "kms", "gone")
        }
    assert found["kms"] == ("the server encrypts objects by default (aws:kms alias/kpi)", "")
    assert found["plain"][0] == "the bucket has no default encryption"
    assert "(NoSuchBucket)" in found["gone"][0]
