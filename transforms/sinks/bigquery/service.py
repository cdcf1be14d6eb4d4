"""BigQuery as this store uses it: jobs over REST, rows in and out over gRPC, and what its errors mean.

Nothing here tries again, but for asking after a job: whoever writes does that, from the beginning. Every request has a time-out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import google.auth
import grpc
import numpy as np
import pyarrow as pa
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPIError, NotFound, from_grpc_status
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, BigQueryWriteClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

from transforms.core.errors import Unavailable
from transforms.core.retry import back_off
from transforms.sinks.bigquery.errors import in_the_way, judged
from transforms.sinks.bigquery.row_format import serialized

REQUEST_SECONDS, JOB_SECONDS, STREAM_SECONDS = 60.0, 600.0, 300.0
"""Time-outs of a request, of a job, and of a stream of rows."""
TRIES = 6
"""How often a job is begun while other writers are in its way."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_STREAM_BYTES = 64_000_000
ONCE = Retry(predicate=if_exception_type())
"""No second try."""
_ASKING = DEFAULT_RETRY.with_timeout(REQUEST_SECONDS)
_ERRORS = (
    GoogleAPIError,
    GoogleAuthError,
    grpc.RpcError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)


@dataclass(frozen=True)
class Service:
    """Where BigQuery is: Google's own, or that of two endpoints; one over http:// asks for no credentials.

    Every call may raise Unavailable or Refused; `name` is what their messages call the place.
    """

    name: str
    project: str
    endpoint: str = ""
    storage_endpoint: str = ""

    @property
    def rest(self) -> bigquery.Client:
        """The client of the REST interface; use it within `told`."""
        return _rest(self)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors of the clients as a sink says them."""
        try:
            yield
        except _ERRORS as error:
            raise judged(error, self.name) from error

    def query(
        self, sql: str, location: str | None, parameters: Sequence[Any] = (), dry: bool = False
    ) -> list[tuple[Any, ...]]:
        """The rows that a job's last statement gives; where another transaction is in its way, it is begun anew a few times."""
        config = bigquery.QueryJobConfig(
            query_parameters=list(parameters),
            dry_run=dry,
            use_query_cache=False,
            job_timeout_ms=int(JOB_SECONDS * 1000),
        )
        for _ in back_off(TRIES, _FIRST_PAUSE, _LONGEST_PAUSE):
            with self.told():
                try:
                    job = self._begun(sql, location, config)
                    return (
                        []
                        if dry
                        else [
                            row.values()
                            for row in job.result(retry=_ASKING, job_retry=None, timeout=JOB_SECONDS)
                        ]
                    )
                except GoogleAPIError as error:
                    if not in_the_way(error):
                        raise
        raise Unavailable(
            f"{self.name} is changed by other writers all the time; let fewer write to one dataset"
        )

    def _begun(self, sql: str, location: str | None, config: bigquery.QueryJobConfig) -> Any:
        """A job; one whose answer was lost is looked for by its id."""
        job = f"kpiflow_{uuid4().hex}"
        try:
            return self.rest.query(
                sql,
                job_config=config,
                job_id=job,
                location=location,
                retry=ONCE,
                job_retry=None,
                timeout=REQUEST_SECONDS,
            )
        except _ERRORS as error:
            if config.dry_run or not isinstance(judged(error, self.name), Unavailable):
                raise
            try:
                return self.rest.get_job(job, location=location, retry=ONCE, timeout=REQUEST_SECONDS)
            except _ERRORS:
                raise error from None

    def append(self, dataset: str, table: str, rows: pa.RecordBatch) -> tuple[dict[int, str], int]:
        """Append rows to a table: what BigQuery has against some of them, by their number, and how many requests it took.

        The others are in the table, perhaps twice where this is called again after an error.
        """
        refused: dict[int, str] = {}
        requests, left = 0, np.arange(rows.num_rows)
        step = max(1, rows.num_rows * _STREAM_BYTES // max(rows.nbytes, 1))
        while len(left):
            turned_away = []
            for part in (left[start : start + step] for start in range(0, len(left), step)):
                whole = len(part) == rows.num_rows
                faults, again, sent = self._appended(
                    dataset, table, rows if whole else rows.take(pa.array(part))
                )
                refused |= {int(part[number]): message for number, message in faults.items()}
                turned_away.append(part[again])
                requests += sent
            left = np.concatenate(turned_away)
        return refused, requests

    def _appended(
        self, dataset: str, table: str, rows: pa.RecordBatch
    ) -> tuple[dict[int, str], np.ndarray, int]:
        """What is wrong with some rows; the other rows of their requests, which were turned away with them; the requests made."""
        stream = f"projects/{self.project}/datasets/{dataset}/tables/{table}/streams/_default"
        parts = list(serialized(rows))
        messages = _messages(stream, rows.schema, [data for _, data in parts])
        refused: dict[int, str] = {}
        again, start = np.zeros(rows.num_rows, dtype=bool), 0
        answers = self._answers(dataset, table, _writer(self).append_rows, iter(messages), stream)
        for (count, _), answer in zip(parts, answers, strict=False):
            if answer.row_errors:
                again[start : start + count] = True
                refused |= {start + fault.index: fault.message for fault in answer.row_errors}
            start += count
        if start < rows.num_rows:
            raise Unavailable(f"{self.name} ended the connection before it had taken all rows")
        again[list(refused)] = False
        return refused, np.flatnonzero(again), len(parts)

    def _answers(
        self, dataset: str, table: str, call: Any, messages: Iterator[Any], stream: str
    ) -> Iterator[Any]:
        """The answer to each message; one that is neither good nor about single rows is an error."""
        routing = (("x-goog-request-params", f"write_stream={stream}"),)
        with self.told():
            try:
                for answer in call(messages, retry=None, timeout=STREAM_SECONDS, metadata=routing):
                    if answer.error.code and not answer.row_errors:
                        raise from_grpc_status(
                            _code(answer.error.code), answer.error.message, response=answer
                        )
                    yield answer
            except NotFound as error:
                # A stream learns of a new table some minutes after everybody else.
                if self.table(dataset, table) is not None:
                    raise Unavailable(f"{self.name}: {table} is new and not yet ready for rows") from error
                raise

    def table(self, dataset: str, table: str) -> bigquery.Table | None:
        """What BigQuery says of a table; None where there is none."""
        with self.told():
            try:
                return self.rest.get_table(
                    f"{self.project}.{dataset}.{table}", retry=ONCE, timeout=REQUEST_SECONDS
                )
            except NotFound:
                return None

    def dataset(self, dataset: str) -> bigquery.Dataset | None:
        """What BigQuery says of a dataset; None where there is none."""
        with self.told():
            try:
                return self.rest.get_dataset(f"{self.project}.{dataset}", retry=ONCE, timeout=REQUEST_SECONDS)
            except NotFound:
                return None

    def ready_for_rows(self, dataset: str, table: str) -> None:
        """Ask for the stream that rows of a table are appended to."""
        name = f"projects/{self.project}/datasets/{dataset}/tables/{table}/streams/_default"
        with self.told():
            _writer(self).get_write_stream(name=name, retry=None, timeout=REQUEST_SECONDS)

    def read(self, dataset: str, table: str, condition: str = "") -> Iterator[pa.RecordBatch]:
        """The rows of a table under a condition, in any order, as BigQuery has them."""
        wanted = types.ReadSession(
            table=f"projects/{self.project}/datasets/{dataset}/tables/{table}",
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(row_restriction=condition),
        )
        with self.told():
            session = _reader(self).create_read_session(
                parent=f"projects/{self.project}",
                read_session=wanted,
                max_stream_count=1,
                retry=None,
                timeout=REQUEST_SECONDS,
            )
            for stream in session.streams:
                schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
                for answer in _reader(self).read_rows(stream.name, retry=None, timeout=STREAM_SECONDS):
                    yield pa.ipc.read_record_batch(
                        pa.py_buffer(answer.arrow_record_batch.serialized_record_batch), schema
                    )


def _code(number: int) -> grpc.StatusCode:
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def _messages(stream: str, schema: pa.Schema, parts: Sequence[bytes]) -> list[types.AppendRowsRequest]:
    """The requests of a connection; the first one tells the schema."""
    messages = []
    for place, part in enumerate(parts):
        data = types.AppendRowsRequest.ArrowData(rows=types.ArrowRecordBatch(serialized_record_batch=part))
        if not place:
            data.writer_schema = types.ArrowSchema(serialized_schema=schema.serialize().to_pybytes())
        messages.append(types.AppendRowsRequest(write_stream=stream, arrow_rows=data, trace_id="kpiflow"))
    return messages


@cache
def _credentials(service: Service) -> Credentials:
    if service.endpoint.startswith("http://"):
        return AnonymousCredentials()
    return google.auth.default(scopes=["https://www.googleapis.com/auth/bigquery"])[0]


@cache
def _rest(service: Service) -> bigquery.Client:
    options = ClientOptions(api_endpoint=service.endpoint) if service.endpoint else None
    return bigquery.Client(service.project, _credentials(service), client_options=options)


@cache
def _writer(service: Service) -> BigQueryWriteClient:
    return _storage(service, BigQueryWriteClient, BigQueryWriteGrpcTransport)


@cache
def _reader(service: Service) -> BigQueryReadClient:
    return _storage(service, BigQueryReadClient, BigQueryReadGrpcTransport)


def _storage(service: Service, client: Any, transport: Any) -> Any:
    if service.endpoint.startswith("http://"):
        channel = grpc.insecure_channel(
            service.storage_endpoint, options=[("grpc.max_receive_message_length", -1)]
        )
        return client(transport=transport(channel=channel))
    options = ClientOptions(api_endpoint=service.storage_endpoint) if service.storage_endpoint else None
    return client(credentials=_credentials(service), client_options=options)
