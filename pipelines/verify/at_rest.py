"""What encrypts an output at rest, besides kpiflow: the volume below a folder, or the server of a bucket."""

import os
from collections.abc import Iterator
from pathlib import Path

from transforms.core.errors import Finding
from transforms.encryption.key_ring import KeySource
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder

_ADVICE = "encrypt the volume (LUKS, or the cloud's disks), or make an output with --encrypt"
_BUCKET_ADVICE = "set the bucket's default encryption, or make an output with --encrypt"


def find_encryption(store: ParquetStore, keys: KeySource | None) -> Iterator[Finding]:
    """What is known about the encryption of a store; what is missing is a note, no problem."""
    if keys is not None:
        yield Finding(f"encryption at rest: files are encrypted, under the master key {keys.master}")
    elif isinstance(store.storage, LocalFolder):
        found, advice = describe_volume(store.storage.path)
        yield Finding(f"encryption at rest: {found}", "", advice)
    else:
        found, advice = describe_bucket(store)
        yield Finding(f"encryption at rest: {found}", "", advice)


def describe_volume(folder: Path, root: Path = Path("/")) -> tuple[str, str]:
    """Whether dm-crypt (LUKS) is below a folder, as Linux shows it; and what to do, empty if nothing.

    `root`: where /sys and /proc are.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    number = os.stat(place).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    block = root / "sys/dev/block" / device
    if not block.exists():
        kind = _find_file_system(device, root / "proc/self/mountinfo") or "of an unknown kind"
        return f"cannot be seen, the file system ({kind}) is not on a block device of this machine", _ADVICE
    names = list(_list_layers(block.resolve(), root / "sys/block"))
    if crypt := next((name for name, uuid in names if uuid.startswith("CRYPT-")), None):
        return f"dm-crypt ({crypt}) is below the folder", ""
    return (
        f"dm-crypt is not below the folder ({names[-1][0]}); what a disk or a cloud does cannot be seen",
        _ADVICE,
    )


def _list_layers(block: Path, blocks: Path) -> Iterator[tuple[str, str]]:
    """The name and the device mapper's uuid of a block device and of all that are below it."""
    uuid = block / "dm/uuid"
    yield block.name, uuid.read_text().strip() if uuid.is_file() else ""
    for slave in sorted((block / "slaves").glob("*")):
        yield from _list_layers((blocks / slave.name).resolve(), blocks)


def _find_file_system(device: str, mounts: Path) -> str:
    """The type of the file system with a device number."""
    for line in mounts.read_text().splitlines() if mounts.is_file() else ():
        before, _, after = line.partition(" - ")
        if before.split()[2] == device:
            return after.split()[0]
    return ""


def describe_bucket(store: ParquetStore) -> tuple[str, str]:
    """The default encryption of a bucket, as its server says; and what to do, empty if nothing."""
    from transforms.storage.object_storage import ObjectStorage

    assert isinstance(store.storage, ObjectStorage)
    place = store.storage
    if place.scheme != "s3":
        return "cannot be seen here; Google Cloud Storage says that it encrypts every object", ""
    try:
        import boto3  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    except ImportError:
        return "cannot be seen without boto3", "pip install 'kpiflow[objects]'"
    try:
        client = boto3.client("s3", endpoint_url=place.endpoint or None, region_name=place.region or None)
        answer = client.get_bucket_encryption(Bucket=place.bucket)
        rule = answer["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    except (BotoCoreError, ClientError, KeyError, IndexError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
        if code == "ServerSideEncryptionConfigurationNotFoundError":
            return "the bucket has no default encryption", _BUCKET_ADVICE
        return f"cannot be seen, the server does not say it ({code})", _BUCKET_ADVICE
    key = rule.get("KMSMasterKeyID", "")
    return (
        f"the server encrypts objects by default ({' '.join(filter(None, (rule['SSEAlgorithm'], key)))})",
        "",
    )
