"""Outputs that tests make and open without a job."""

from pathlib import Path

from pipelines.settings import Settings
from pipelines.verify.output_description import open_store
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder


def open_output(path: Path, settings: Settings, create: bool, file_minutes: int = 30) -> Settings:
    """`open_store` of a folder on this machine: the settings to write it with."""
    store = ParquetStore(LocalFolder(path), settings.file_minutes)
    return open_store(store, settings, create, file_minutes)[1]
