"""Whether an output is encrypted, and the keys with which it is read and written."""

from typing import Any

from pipelines.failures import WrongUse, make_missing_error
from pipelines.settings import Settings
from transforms.sinks.parquet.encryption.key_ring import KeySource, add_source, has_keys
from transforms.sinks.parquet.parquet_store import ParquetStore, is_described_encrypted


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
    if settings.master_key is None:
        problem = f"{store.name} is encrypted" if encrypted else "--encrypt needs a master key"
        raise WrongUse(problem, "give --master-key; `kpiflow keys new FILE` makes one")
    source = KeySource(store.storage, settings.master_key)
    try:
        source.open_master().find_current()
        if encrypted:
            source.check()
    except ImportError as error:
        raise make_missing_error("encryption", error, "encryption") from error
    return add_source(source.storage, source.master)
