"""Whether an output or an archive is encrypted, and the keys with which it is read and written."""

from pathlib import Path
from typing import Any

from pipelines.failures import WrongUse, make_missing_error
from pipelines.settings import Settings
from transforms.encryption.key_ring import KeySource, add_source, has_keys
from transforms.envelopes.encrypted_segments import ENDING
from transforms.sinks.parquet.parquet_store import ParquetStore, is_described_encrypted
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage


def choose_keys(
    store: ParquetStore, description: dict[str, Any] | None, settings: Settings
) -> KeySource | None:
    """The keys of an output, all of which open; None if it is not encrypted. Nothing is written.

    An output stays as it began. A new one (without a description) is encrypted if the settings say so.

    Raises:
        WrongUse: the settings say another thing than the output, or a package is not installed.
        KeyRefused: the master key, or a key, is wrong, missing or revoked.
    """
    has_list = has_keys(store.storage)
    encrypted = has_list or (description is not None and is_described_encrypted(description))
    if settings.encrypt and description is not None and not encrypted:
        problem = f"{store.name} was begun without encryption, and its files would stay readable"
        raise WrongUse(problem, "name a new output, or leave --encrypt out")
    if not (encrypted or settings.encrypt):
        return None
    source = _open_source(store.storage, settings, encrypted)
    return add_source(source.storage, source.master)


def choose_archive_keys(archive: Path, settings: Settings, encrypt: bool) -> KeySource | None:
    """The keys of an archive of streams, all of which open; None if it is not encrypted. Nothing is written.

    They are in the archive's own folder, so that it can be read wherever it is. An archive stays as it began;
    `encrypt`: whether a new one is encrypted.

    Raises: as `choose_keys`.
    """
    files = [path.name for path in archive.glob("*/*.ndjson*")]
    storage = LocalFolder(archive)
    encrypted = has_keys(storage) or any(name.endswith(ENDING) for name in files)
    if encrypt and files and not encrypted:
        problem = f"the archive {archive} was begun without encryption, and its files would stay readable"
        raise WrongUse(problem, "name a new archive, or leave --encrypt out")
    return _open_source(storage, settings, encrypted) if encrypted or encrypt else None


def _open_source(storage: Storage, settings: Settings, has_begun: bool) -> KeySource:
    """The keys in a storage, under the master key of the settings; all that there are open."""
    if settings.master_key is None:
        problem = f"{storage.name} is encrypted" if has_begun else "--encrypt needs a master key"
        raise WrongUse(problem, "give --master-key; `kpiflow keys new FILE` makes one")
    source = KeySource(storage, settings.master_key)
    try:
        source.open_master().find_current()
        if has_begun:
            source.check()
    except ImportError as error:
        raise make_missing_error("encryption", error, "encryption") from error
    return source
