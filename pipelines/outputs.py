"""Where tables go: each `--output` is a URL whose scheme chooses the kind of place. Every kind that there is stands in SCHEMES."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import SplitResult, unquote, urlsplit

from pipelines.failures import WrongUse
from pipelines.settings import Settings
from pipelines.verify.output_description import open_store, translate_sink_errors
from schemas.tables import FLEET
from transforms.sinks.parquet.parquet_store import ParquetFiles
from transforms.sinks.parquet.storage import LocalFolder
from transforms.sinks.sink import Sink, Store


def _folder(url: SplitResult, settings: Settings) -> Sink:
    return folder_outputs(Path(unquote(url.path)), settings).main


def _objects(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.parquet.object_storage import ObjectStorage

    return ParquetFiles(ObjectStorage.from_url(url), settings.file_minutes, settings.flush_seconds)


def _bigquery(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.bigquery.bigquery_store import BigQuery

    return BigQuery.from_url(url, settings.warehouse_seconds)


def _victoriametrics(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.timeseries.victoriametrics import VictoriaMetrics

    secrets = (settings.victoriametrics_password, settings.victoriametrics_token)
    password, token = (None if secret is None else secret.get_secret_value() for secret in secrets)
    return VictoriaMetrics.from_url(
        url, settings.flush_seconds, settings.victoriametrics_user, password, token
    )


def _influxdb(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.timeseries.influxdb import InfluxDB

    if settings.influxdb_token is None:
        raise WrongUse("InfluxDB asks for a token", "set KPIFLOW_INFLUXDB_TOKEN in the environment")
    return InfluxDB.from_url(url, settings.influxdb_token.get_secret_value(), settings.flush_seconds)


@dataclass(frozen=True)
class Scheme:
    """A kind of place: how its URLs look, what makes a Sink of one, and the extra that brings what it needs."""

    form: str
    make: Callable[[SplitResult, Settings], Sink]
    extra: str = ""


SCHEMES = {
    "file": Scheme("a folder", _folder),
    "s3": Scheme("s3://BUCKET/PREFIX", _objects, "objects"),
    "gs": Scheme("gs://BUCKET/PREFIX", _objects, "objects"),
    "bigquery": Scheme("bigquery://PROJECT/DATASET", _bigquery, "bigquery"),
    "victoriametrics+http": Scheme("victoriametrics+http://HOST:PORT", _victoriametrics, "timeseries"),
    "victoriametrics+https": Scheme("victoriametrics+https://HOST:PORT", _victoriametrics, "timeseries"),
    "influxdb+http": Scheme("influxdb+http://HOST:PORT/BUCKET?org=ORG", _influxdb, "timeseries"),
    "influxdb+https": Scheme("influxdb+https://HOST:PORT/BUCKET?org=ORG", _influxdb, "timeseries"),
}


@dataclass(frozen=True)
class Outputs:
    """All places that a job writes to.

    `main` is the first that keeps tables: a job goes on from what it holds. `folders` are those on this machine, each of which
    a job holds; what a backfill spools is in the first.
    """

    sinks: tuple[Sink, ...]

    @property
    def main(self) -> Store:
        return next(sink for sink in self.sinks if isinstance(sink, Store))

    @property
    def folders(self) -> list[Path]:
        return list(filter(None, map(local_folder, self.sinks)))

    @property
    def gather_seconds(self) -> int:
        """How long rows may be gathered before the slowest sink gets them."""
        return max(sink.gather_seconds for sink in self.sinks)

    @property
    def takes_fleet(self) -> bool:
        """Whether a sink takes the aggregates over all agents."""
        return any(FLEET.name in sink.tables for sink in self.sinks)

    def __str__(self) -> str:
        return ", ".join(sink.name for sink in self.sinks)


def parse_sink(text: str, settings: Settings) -> Sink:
    """The sink that an `--output` means; it is not connected to.

    Raises:
        WrongUse: there is no such kind of place, its URL has another form, or what it needs is not installed.
    """
    url = urlsplit(text if "://" in text else Path(text).absolute().as_uri())
    scheme = SCHEMES.get(url.scheme)
    if scheme is None:
        forms = ", ".join(dict.fromkeys(each.form for each in SCHEMES.values()))
        raise WrongUse(f"--output {text}: no place is called {url.scheme}://", f"one of {forms}")
    try:
        return scheme.make(url, settings)
    except ValueError as error:
        raise WrongUse(f"--output {text}: {error}", f"write it as {scheme.form}") from error
    except ImportError as error:
        mend = f"pip install 'kpiflow[{scheme.extra}]'"
        raise WrongUse(f"{url.scheme}:// needs {error.name}, which is not installed", mend) from error


def parse_outputs(texts: Sequence[str], settings: Settings) -> Outputs:
    """The places of a job, none of them connected to.

    Raises:
        WrongUse: a URL means nothing, or no place keeps tables.
    """
    outputs = Outputs(tuple(parse_sink(text, settings) for text in dict.fromkeys(texts)))
    if not any(isinstance(each, Store) for each in outputs.sinks):
        raise WrongUse(
            f"{outputs} keeps no tables, so that a job could not go on from what it wrote",
            "give an output that does too: a folder, s3://, gs:// or bigquery://",
        )
    return outputs


def open_outputs(
    texts: Sequence[str], settings: Settings, create: bool = True, file_minutes: int = 30
) -> tuple[Outputs, Settings]:
    """The places of a job, each of its stores described and ready; and the settings to write them with.

    Raises:
        WrongUse: a URL means nothing, no place keeps tables, or a store cannot be used or was written under other settings.
    """
    sinks = list(parse_outputs(texts, settings).sinks)
    fitted = settings
    for place, each in enumerate(sinks):
        if isinstance(each, Store):
            sinks[place], own = open_store(each, settings, create, file_minutes)
            fitted = own if fitted is settings else fitted
    return Outputs(tuple(sinks)), fitted


def folder_outputs(folder: Path, settings: Settings) -> Outputs:
    """A folder of this machine as the only output."""
    return Outputs((ParquetFiles(LocalFolder(folder), settings.file_minutes, settings.flush_seconds),))


def local_folder(place: Sink) -> Path | None:
    """The folder of this machine that a sink is, if it is one."""
    if isinstance(place, ParquetFiles) and isinstance(place.storage, LocalFolder):
        return place.storage.path
    return None


@contextmanager
def open_for_reading(text: str, settings: Settings) -> Iterator[Path]:
    """An output as a folder of files: itself, whatever it holds, or a copy that lasts as long as the block.

    Raises:
        WrongUse: it is elsewhere, and no output or cannot be read.
    """
    place = parse_sink(text, settings)
    if (folder := local_folder(place)) is not None:
        yield folder
        return
    if not isinstance(place, Store):
        raise WrongUse(f"{place.name} keeps no tables", "name a folder, s3://, gs:// or bigquery://")
    with TemporaryDirectory(prefix="kpiflow-") as copy:
        with translate_sink_errors():
            if place.read_description() is None:
                raise WrongUse(f"there is no output in {place.name}", "`kpiflow backfill --output` makes one")
            place.copy_to(Path(copy))
        yield Path(copy)
