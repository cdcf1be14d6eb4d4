"""Outputs: each `--output` is a folder or a URL, whose scheme selects the kind of sink.

SCHEMES lists all kinds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from pipelines.connections import connect_redis
from pipelines.failures import WrongUse, make_missing_error
from pipelines.settings import Settings
from pipelines.verify.output_description import open_store, translate_sink_errors
from schemas.tables import FLEET
from transforms.core.expiry import NOTHING, Expiry
from transforms.encryption.key_ring import KeySource
from transforms.redis.connection import SCHEMES as REDIS_SCHEMES
from transforms.sinks.parquet.maintenance_ledger import read_ledger
from transforms.sinks.parquet.outcome_ledger import OutcomeLedger
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.sinks.sink import Sink, Store
from transforms.storage.local_folder import LocalFolder

if TYPE_CHECKING:
    from transforms.sinks.publish import LiveStreams


def _make_folder(url: SplitResult, settings: Settings) -> Sink:
    return folder_outputs(Path(unquote(url.path)), settings).main


def _make_objects(url: SplitResult, settings: Settings) -> Sink:
    from transforms.storage.object_storage import ObjectStorage

    return ParquetStore(ObjectStorage.from_url(url), settings.file_minutes, settings.flush_seconds)


def _make_bigquery(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.bigquery.bigquery_store import BigQuery

    return BigQuery.from_url(url, settings.warehouse_seconds)


def _make_victoriametrics(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.timeseries.victoriametrics import VictoriaMetrics

    secrets = (settings.victoriametrics_password, settings.victoriametrics_token)
    password, token = (None if secret is None else secret.get_secret_value() for secret in secrets)
    return VictoriaMetrics.from_url(
        url, settings.flush_seconds, settings.victoriametrics_user, password, token
    )


def _make_influxdb(url: SplitResult, settings: Settings) -> Sink:
    from transforms.sinks.timeseries.influxdb import InfluxDB

    if settings.influxdb_token is None:
        raise WrongUse("InfluxDB needs a token", "set KPIFLOW_INFLUXDB_TOKEN in the environment")
    return InfluxDB.from_url(url, settings.influxdb_token.get_secret_value(), settings.flush_seconds)


@dataclass(frozen=True)
class OutputScheme:
    """A kind of output: the form of its URLs, what makes a sink of one, and the pip extra that it needs."""

    form: str
    make: Callable[[SplitResult, Settings], Sink]
    extra: str = ""


SCHEMES = {
    "file": OutputScheme("a folder", _make_folder),
    "s3": OutputScheme("s3://BUCKET/PREFIX", _make_objects, "objects"),
    "gs": OutputScheme("gs://BUCKET/PREFIX", _make_objects, "objects"),
    "bigquery": OutputScheme("bigquery://PROJECT/DATASET", _make_bigquery, "bigquery"),
    "victoriametrics+http": OutputScheme(
        "victoriametrics+http://HOST:PORT", _make_victoriametrics, "timeseries"
    ),
    "victoriametrics+https": OutputScheme(
        "victoriametrics+https://HOST:PORT", _make_victoriametrics, "timeseries"
    ),
    "influxdb+http": OutputScheme("influxdb+http://HOST:PORT/BUCKET?org=ORG", _make_influxdb, "timeseries"),
    "influxdb+https": OutputScheme("influxdb+https://HOST:PORT/BUCKET?org=ORG", _make_influxdb, "timeseries"),
}


@dataclass(frozen=True)
class Outputs:
    """All outputs of a job.

    `main` is the first store: a job continues from its rows. `folders` are those on this machine: a job locks
    each of them, and a backfill spools into the first.
    """

    sinks: tuple[Sink, ...]

    @property
    def main(self) -> Store:
        return next(sink for sink in self.sinks if isinstance(sink, Store))

    @property
    def folders(self) -> list[Path]:
        return list(filter(None, map(local_folder, self.sinks)))

    @property
    def keys(self) -> KeySource | None:
        """The keys of the main output, if it is encrypted."""
        return self.main.keys if isinstance(self.main, ParquetStore) else None

    @property
    def are_encrypted(self) -> bool:
        """Whether files of an output are encrypted."""
        return any(isinstance(sink, ParquetStore) and sink.keys for sink in self.sinks)

    @property
    def gather_seconds(self) -> int:
        """Seconds for which rows may be collected before the slowest sink gets them."""
        return max(sink.gather_seconds for sink in self.sinks)

    @property
    def takes_fleet(self) -> bool:
        """Whether a sink takes the aggregates over all agents."""
        return any(FLEET.name in sink.tables for sink in self.sinks)

    def read_expiry(self) -> Expiry:
        """What has expired in the main output. Messages of that time are dropped for all outputs.

        Raises:
            WrongUse: its maintenance ledger cannot be used.
        """
        if not isinstance(self.main, ParquetStore):
            return NOTHING
        with translate_sink_errors():
            return read_ledger(self.main.storage)[0].expiry

    def count_in(self, ledger: OutcomeLedger) -> "Outputs":
        """The same outputs; what the main one has is counted in a ledger, if it keeps files."""
        if not isinstance(self.main, ParquetStore):
            return self
        ledger.folder.mkdir(parents=True, exist_ok=True)  # says that it counts, also before the first row
        counted = replace(self.main, ledger=ledger)
        return Outputs(tuple(counted if sink is self.main else sink for sink in self.sinks))

    def __str__(self) -> str:
        return ", ".join(sink.name for sink in self.sinks)


def parse_sink(text: str, settings: Settings) -> Sink:
    """The sink that an `--output` means, without connecting to it.

    Raises:
        WrongUse: the kind is unknown, the URL has another form, or a package is not installed.
    """
    url = urlsplit(text if "://" in text else Path(text).absolute().as_uri())
    scheme = SCHEMES.get(url.scheme)
    if scheme is None:
        forms = ", ".join(dict.fromkeys(each.form for each in SCHEMES.values()))
        raise WrongUse(f"--output {text}: there is no kind of output {url.scheme}://", f"give one of {forms}")
    try:
        return scheme.make(url, settings)
    except ValueError as error:
        raise WrongUse(f"--output {text}: {error}", f"write it as {scheme.form}") from error
    except ImportError as error:
        raise make_missing_error(f"{url.scheme}://", error, scheme.extra) from error


def parse_live_streams(url: str, settings: Settings) -> "LiveStreams":
    """The live streams of `--live`: on the server of the source, which must be Redis. It is not connected to.

    Raises:
        WrongUse: the source is another one.
    """
    from transforms.sinks.publish import LiveStreams

    if urlsplit(url).scheme not in REDIS_SCHEMES:
        raise WrongUse(f"--live publishes to streams of Redis, and {url} is none", "leave --live out")
    return LiveStreams(connect_redis(url, settings), settings.live_maxlen)


def parse_outputs(texts: Sequence[str], settings: Settings) -> Outputs:
    """The outputs of a job, without connecting to them.

    Raises:
        WrongUse: a URL is invalid, or no output is a store.
    """
    outputs = Outputs(tuple(parse_sink(text, settings) for text in dict.fromkeys(texts)))
    if not any(isinstance(each, Store) for each in outputs.sinks):
        raise WrongUse(
            f"{outputs} keeps no tables, so a job could not continue from what it wrote",
            "also give an output that does: a folder, s3://, gs:// or bigquery://",
        )
    return outputs


def open_outputs(
    texts: Sequence[str], settings: Settings, create: bool = True, file_minutes: int = 30
) -> tuple[Outputs, Settings]:
    """The outputs of a job, with each store described and ready, and the settings to write them with.

    Raises:
        WrongUse: a URL is invalid, no output is a store, or a store cannot be used or has other settings.
    """
    sinks = list(parse_outputs(texts, settings).sinks)
    written_with = settings
    for number, each in enumerate(sinks):
        if settings.encrypt and not isinstance(each, ParquetStore):
            fix = "leave --encrypt out, or write it by a job of its own"
            raise WrongUse(f"kpiflow encrypts files of tables, not what it writes to {each.name}", fix)
        if isinstance(each, Store):
            sinks[number], own = open_store(each, settings, create, file_minutes)
            written_with = own if written_with is settings else written_with
    return Outputs(tuple(sinks)), written_with


def folder_outputs(folder: Path, settings: Settings, keys: KeySource | None = None) -> Outputs:
    """A folder on this machine as the only output. With `keys` its files are encrypted."""
    store = ParquetStore(LocalFolder(folder), settings.file_minutes, settings.flush_seconds, keys=keys)
    return Outputs((store,))


def local_folder(sink: Sink) -> Path | None:
    """The folder of a sink, if it is a folder on this machine."""
    if isinstance(sink, ParquetStore) and isinstance(sink.storage, LocalFolder):
        return sink.storage.path
    return None


@contextmanager
def open_for_reading(text: str, settings: Settings) -> Iterator[Path]:
    """Yields an output as a folder of files: the folder itself, or a temporary copy.

    Raises:
        WrongUse: an output that is not a folder does not exist or cannot be read.
    """
    sink = parse_sink(text, settings)
    if (folder := local_folder(sink)) is not None:
        yield folder
        return
    if not isinstance(sink, Store):
        raise WrongUse(f"{sink.name} keeps no tables", "name a folder, s3://, gs:// or bigquery://")
    with TemporaryDirectory(prefix="kpiflow-") as copy:
        with translate_sink_errors():
            if sink.read_description() is None:
                raise WrongUse(f"there is no output in {sink.name}", "`kpiflow backfill --output` makes one")
            sink.copy_to(Path(copy))
        yield Path(copy)
