"""BigQuery as this store uses it: load jobs and queries over REST, reads over gRPC.

Google's clients retry a request that fails on its way. What still fails is raised as `Unavailable` or
`Refused`, and the writer starts over. Every request has a time-out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import google.auth
import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import BadRequest, GoogleAPIError, NotFound
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from transforms.core.errors import Refused
from transforms.sinks.bigquery.errors import as_sink_error, may_rerun

REQUEST_SECONDS, JOB_SECONDS, STREAM_SECONDS = 60.0, 600.0, 300.0
"""Time-outs of a request, of a job, and of a stream of rows."""
RETRY = DEFAULT_RETRY.with_timeout(REQUEST_SECONDS)
"""Of requests about a job: a repeated one names the same job."""
ONCE = Retry(predicate=if_exception_type())
"""Of requests that the writer repeats."""
RERUN = Retry(predicate=may_rerun, initial=0.5, maximum=8.0, timeout=REQUEST_SECONDS)
"""Of jobs that have changed nothing: another writer was in the way, or the table was changed too often."""

INVALID = "invalid"
"""The reason of a load job that fails because of the rows."""

_ERRORS = (
    GoogleAPIError,
    GoogleAuthError,
    grpc.RpcError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)


class NotLoadedError(Refused, ValueError):
    """BigQuery does not take a row of a load job. The writer finds the row by loading parts of the batch.

    As a `ValueError` it is a fault of a row; where no row can be found, it is the output that refuses.
    """


@dataclass(frozen=True)
class Client:
    """BigQuery at Google, or at two other endpoints; an endpoint over http:// gets no credentials.

    Every method may raise Unavailable or Refused; `name` is how their messages call the output.
    """

    name: str
    project: str
    endpoint: str = ""
    storage_endpoint: str = ""

    @property
    def rest(self) -> bigquery.Client:
        """Google's client of the REST interface; use it within `sink_errors`."""
        return _rest(self)

    @contextmanager
    def sink_errors(self) -> Iterator[None]:
        """Raise errors of Google's clients as a sink's."""
        try:
            yield
        except _ERRORS as error:
            raise as_sink_error(error, self.name) from error

    def query(
        self, sql: str, location: str | None, parameters: Sequence[Any] = (), dry_run: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a query or script; return the rows of its last statement."""
        config = bigquery.QueryJobConfig(
            query_parameters=list(parameters), dry_run=dry_run, use_query_cache=False,
            job_timeout_ms=int(JOB_SECONDS * 1000),
        )  # fmt: skip
        once: dict[str, Any] = {"retry": RETRY, "job_retry": None}

        def run() -> list[tuple[Any, ...]]:
            job = self.rest.query(sql, config, location=location, timeout=REQUEST_SECONDS, **once)
            return [row.values() for row in job.result(timeout=JOB_SECONDS, **once)]

        with self.sink_errors():
            return RERUN(run)()

    def load(self, table: bigquery.Table, rows: pa.Table, location: str) -> None:
        """Create a table, which no one else may know yet, and load rows into it.

        Raises:
            NotLoadedError: BigQuery does not take at least one of the rows; none is loaded.
        """
        data = BytesIO()
        pq.write_table(rows, data, compression="zstd")
        parquet = bigquery.ParquetOptions()
        parquet.enable_list_inference = True
        config = bigquery.LoadJobConfig(source_format=bigquery.SourceFormat.PARQUET, parquet_options=parquet)
        with self.sink_errors():
            self.rest.create_table(table, retry=ONCE, timeout=REQUEST_SECONDS)
            # Without `size` the upload is resumable. It is not repeated, as it would name the same job again.
            once: dict[str, Any] = {"rewind": True, "num_retries": 0, "timeout": REQUEST_SECONDS}
            job = self.rest.load_table_from_file(data, table, location=location, job_config=config, **once)
            try:
                job.result(retry=RETRY, timeout=JOB_SECONDS)
            except BadRequest as error:
                reasons = {each.get("reason") for each in error.errors or ()}
                if reasons != {INVALID}:
                    raise  # a table that is unavailable, say: no fault of a row
                raise NotLoadedError(str(as_sink_error(error, self.name))) from error

    def delete(self, table: bigquery.Table) -> None:
        """Delete a table; it need not be there."""
        with self.sink_errors():
            self.rest.delete_table(table, not_found_ok=True, retry=ONCE, timeout=REQUEST_SECONDS)

    def table(self, name: str) -> bigquery.Table | None:
        """Return what BigQuery says of DATASET.TABLE; None if there is none."""
        found: bigquery.Table | None = self._find("get_table", name)
        return found

    def dataset(self, name: str) -> bigquery.Dataset | None:
        """Return what BigQuery says of a dataset; None if there is none."""
        found: bigquery.Dataset | None = self._find("get_dataset", name)
        return found

    def _find(self, method: str, name: str) -> Any:
        with self.sink_errors():
            try:
                return getattr(self.rest, method)(
                    f"{self.project}.{name}", retry=ONCE, timeout=REQUEST_SECONDS
                )
            except NotFound:
                return None

    def read(self, dataset: str, table: str, condition: str = "") -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table under a condition, in any order, as BigQuery has them."""
        wanted = types.ReadSession(
            table=f"projects/{self.project}/datasets/{dataset}/tables/{table}",
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(row_restriction=condition),
        )
        with self.sink_errors():
            session = _reader(self).create_read_session(
                parent=f"projects/{self.project}", read_session=wanted, max_stream_count=1, retry=None,
                timeout=REQUEST_SECONDS,
            )  # fmt: skip
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            for stream in session.streams:
                for answer in _reader(self).read_rows(stream.name, retry=None, timeout=STREAM_SECONDS):
                    rows = pa.py_buffer(answer.arrow_record_batch.serialized_record_batch)
                    yield pa.ipc.read_record_batch(rows, schema)


@cache
def _credentials(client: Client) -> Credentials:
    if client.endpoint.startswith("http://"):
        return AnonymousCredentials()
    return google.auth.default(scopes=["https://www.googleapis.com/auth/bigquery"])[0]


@cache
def _rest(client: Client) -> bigquery.Client:
    options = ClientOptions(api_endpoint=client.endpoint) if client.endpoint else None
    return bigquery.Client(client.project, _credentials(client), client_options=options)


@cache
def _reader(client: Client) -> BigQueryReadClient:
    if client.endpoint.startswith("http://"):
        unlimited = [("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(client.storage_endpoint, options=unlimited)
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
    options = ClientOptions(api_endpoint=client.storage_endpoint) if client.storage_endpoint else None
    return BigQueryReadClient(credentials=_credentials(client), client_options=options)
