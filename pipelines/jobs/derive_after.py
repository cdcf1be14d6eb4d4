"""The end of a batch: the tables of its folders are derived, if they are to be."""

from pathlib import Path

from pipelines.jobs.derive_state import should_derive
from pipelines.outputs import Outputs
from pipelines.settings import Settings


def derive_outputs(outputs: Outputs, settings: Settings) -> None:
    """Derive the tables of the output folders, as the setting `derive` says.

    Raises:
        RunFailed: see `pipelines.jobs.derive.derive`; the messages are written all the same.
    """
    for folder in outputs.folders:
        if should_derive(folder, settings.derive):
            derive_folder(folder, settings)


def derive_folder(folder: Path, settings: Settings) -> None:
    """Derive the tables of a folder that was written with these settings."""
    # DuckDB takes time to load, which batches without records do not need.
    from pipelines.jobs.derive import derive, make_deriver, make_limits

    derive(folder, make_deriver(folder, settings.derived_settings(), (), make_limits(settings)))
