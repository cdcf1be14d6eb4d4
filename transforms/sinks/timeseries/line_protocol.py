"""Aggregates as InfluxDB line protocol, and the sending of lines over HTTP: what time-series stores have in common.

A row of kpi_fleet or kpi_aggregations is one line: a measurement, two tags, a field for each column that is not null, a time.

    kpi,granularity=1m,agent_type=planner tasks=118,latency_seconds=0.293,... 1761134400001

A tag's value has no escape for a line break or a closing backslash, so these are spelt `%XX` (`label_texts`).
"""

import gzip
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import AGGREGATIONS, FLEET, Table
from transforms.core.errors import Refused, Unavailable
from transforms.core.grouping import Ints
from transforms.core.record_batches import concat, conform, make_empty, split_by_rows
from transforms.sinks.error_signs import Signs
from transforms.sinks.row_merge import merge_rows

BODY_BYTES = 4 << 20
"""Lines of one request, before they are compressed."""
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_PORTION = 50_000


class Field(NamedTuple):
    """A field of a line: the value of `column`, times `times`, divided by `per`, in `unit` (Prometheus' base units).

    One of the factors is 1, so that a value is rounded at most once.
    """

    name: str
    column: str
    unit: str
    times: int = 1
    per: int = 1


REVISION = Field("revision", "revision", "")
FIELDS = (
    Field("tasks", "task_count", "reports"),
    Field("success_ratio", "success_rate", "fraction"),
    Field("latency_seconds", "avg_latency_ms", "seconds", per=1000),
    Field("latency_stddev_seconds", "latency_stddev", "seconds", per=1000),
    Field("latency_min_seconds", "min_latency_ms", "seconds", per=1000),
    Field("latency_max_seconds", "max_latency_ms", "seconds", per=1000),
    Field("latency_p50_seconds", "latency_p50_ms", "seconds", per=1000),
    Field("latency_p95_seconds", "latency_p95_ms", "seconds", per=1000),
    Field("latency_p99_seconds", "latency_p99_ms", "seconds", per=1000),
    Field("accuracy_ratio", "avg_accuracy", "fraction"),
    Field("accuracy_stddev_ratio", "accuracy_stddev", "fraction"),
    Field("cpu_usage_ratio", "avg_cpu_usage", "fraction"),
    Field("memory_bytes", "avg_memory_mb", "bytes", times=1_000_000),
    Field("network_bytes", "total_network_bytes", "bytes"),
    Field("performance_score", "performance_score", "score, 0 to 1"),
    Field("efficiency_ratio", "efficiency_ratio", "ratio"),
    *(
        Field(f"{metric}_outliers", f"{metric}_outlier_count", "reports")
        for metric in ("latency", "accuracy", "cpu", "memory")
    ),
)
"""Every field but the revision; the name that a metric has in a store is `<measurement>_<field>`."""


class Series(NamedTuple):
    """How the rows of a table are told apart: the measurement, and the tag beside `granularity` with the column it shows.

    An agent's rows do not show its type: it is no part of their key, and a late report may change it, which would leave an older
    revision of the window behind as a series of its own.
    """

    measurement: str
    tag: str
    column: str


SERIES = {
    FLEET.name: Series("kpi", "agent_type", "target_agent_type"),
    AGGREGATIONS.name: Series("kpi_agent", "agent_id", "agent_id"),
}

_LABEL_UNSAFE = str.maketrans({chr(code): f"%{code:02X}" for code in (*range(32), 127, ord("%"), ord("\\"))})
_TAG_ESCAPED = str.maketrans({character: f"\\{character}" for character in ",= "})


def newest(table: Table, rows: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows in the table's columns, each key once: of rows with one key the largest revision."""
    none = make_empty(table.schema)
    return merge_rows(table, none, concat([conform(batch, table.schema) for batch in rows] or [none])).rows


def label_texts(values: pa.Array) -> pa.Array:
    """string[n]: what a store shows for a tag's values; distinct values have distinct texts, and null stays null.

    Control characters, backslash and percent are `%XX`, an empty text is `%`: stores take an empty tag for none.
    """
    return _each_distinct(values, r"^$|[\x00-\x1f\x7f%\\]", lambda text: text.translate(_LABEL_UNSAFE) or "%")


def tag_text(text: str) -> str:
    """A label's text as it stands in a line."""
    return text.translate(_TAG_ESCAPED)


def milliseconds(times: pa.Array) -> Ints:
    """int64[n]: times (of microseconds) as milliseconds since 1970."""
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False) // 1000


def bodies(
    rows: pa.RecordBatch,
    series: Series,
    times: Ints,
    fields: Sequence[Field],
    labels: Mapping[str, str] | None = None,
    limit: int = BODY_BYTES,
) -> Iterator[bytes]:
    """The rows as lines, in order, in bodies of about `limit` bytes, each of whole lines.

    A null, or a number that is not finite, is left out of its line; a row without any field has no line. `times` is int64[n] in
    milliseconds since 1970; `labels` are further tags of every line.
    """
    stamped = rows.append_column("sample_time", pa.array(times, pa.int64()))
    for portion in split_by_rows(stamped, _PORTION):
        lines = _lines(portion, series, fields, labels or {})
        ends = np.frombuffer(lines.buffers()[1], dtype=np.int32)[lines.offset : lines.offset + len(lines) + 1]
        data = memoryview(lines.buffers()[2] or b"")
        start = 0
        while start < len(lines):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + limit, side="right")) - 1)
            yield bytes(data[ends[start] : ends[stop]])
            start = stop


def _lines(
    rows: pa.RecordBatch, series: Series, fields: Sequence[Field], labels: Mapping[str, str]
) -> pa.Array:
    """string[m]: a line, with its line break, of each row that has a field."""
    join = pc.binary_join_element_wise
    values = [join(f"{field.name}=", _number(rows, field), "") for field in fields]
    some = np.logical_or.reduce([value.is_valid().to_numpy(zero_copy_only=False) for value in values])
    if not some.all():
        return _lines(rows.filter(pa.array(some)), series, fields, labels)
    tag = _each_distinct(label_texts(rows[series.column]), "[,= ]", tag_text)
    tag = pc.fill_null(join(f",{series.tag}=", tag, ""), "")
    further = "".join(f",{tag_text(name)}={tag_text(value)}" for name, value in labels.items())
    present, time = join(*values, ",", null_handling="skip"), rows["sample_time"].cast(pa.string())
    return join(
        f"{series.measurement}{further},granularity=",
        rows["granularity"],
        tag,
        " ",
        present,
        " ",
        time,
        "\n",
        "",
    )


def _number(rows: pa.RecordBatch, field: Field) -> pa.Array:
    """string[n]: a column's numbers in the field's unit; null where there is none."""
    values = rows[field.column]
    if field.times != 1 or field.per != 1:
        values = pc.divide(pc.multiply(values.cast(pa.float64()), float(field.times)), float(field.per))
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    return values.cast(pa.string())


def _each_distinct(values: pa.Array, pattern: str, change: Callable[[str], str]) -> pa.Array:
    """The texts, each that matches `pattern` changed: such texts are few, so that the others cost no Python."""
    encoded = values.dictionary_encode()
    texts = encoded.dictionary
    matches = pc.match_substring_regex(texts, pattern)
    if not pc.any(matches).as_py():
        return values
    changed = pa.array([change(text) for text in texts.filter(matches).to_pylist()], pa.string())
    return pc.replace_with_mask(texts, matches, changed).take(encoded.indices)


def http_url(url: SplitResult, form: str) -> str:
    """What stands after the `+` of a URL's scheme, up to its host and port.

    Raises:
        ValueError: there is no host, the port is none, or a password stands in it.
    """
    if url.username is not None or url.password is not None:
        raise ValueError(
            f"a URL is no place for a user and a password; give them in the environment, and {form}"
        )
    if not url.hostname or url.fragment:
        raise ValueError(f"give {form}")
    try:
        port = f":{url.port}" if url.port else ""
    except ValueError as error:
        raise ValueError(f"the port is none; give {form}") from error
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme.partition('+')[2]}://{host}{port}"


def request(
    client: httpx.Client,
    place: str,
    signs: Signs,
    method: str,
    path: str,
    params: Mapping[str, str] | None = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """The answer, whole, where it is final: success, or an error that will not pass, for the caller to judge.

    `place` is how errors name the server, `signs` what its errors mean.

    Raises:
        Unavailable: no connection, no answer in time, half an answer, or an error that passes.
        Refused: the certificate is not trusted, or the server sends elsewhere.
    """
    try:
        response = client.request(method, path, params=params, content=content, headers=headers)
    except httpx.RequestError as error:
        if _untrusted(error):
            raise Refused(
                f"{place} shows a certificate of no trusted authority ({error}); set SSL_CERT_FILE"
            ) from error
        raise Unavailable(f"{place} cannot be reached: {str(error) or type(error).__name__}") from error
    if response.is_error and signs.passes(response.status_code, response.text):
        raise Unavailable(f"{place} takes nothing just now: {answered(response)}")
    if response.is_redirect:
        raise Refused(
            f"{place} sends elsewhere, to {response.headers.get('location')}; give the URL of the server itself"
        )
    return response


def answered(response: httpx.Response) -> str:
    """The status of an answer, and the first words of what it says."""
    return f"{response.status_code} {' '.join(response.text.split())[:500] or response.reason_phrase}"


def post_lines(
    client: httpx.Client, place: str, signs: Signs, path: str, params: Mapping[str, str], body: bytes
) -> list[httpx.Response]:
    """Send lines, compressed; in halves where the server finds them too large, so that there may be several answers.

    Raises:
        Unavailable, Refused: as `request`.
    """
    headers = {"content-encoding": "gzip", "content-type": "text/plain; charset=utf-8"}
    response = request(client, place, signs, "POST", path, params, gzip.compress(body, 1), headers)
    middle = body.find(b"\n", len(body) // 2) + 1
    if response.status_code != 413 or not 0 < middle < len(body):
        return [response]
    halves = (body[:middle], body[middle:])
    return [answer for half in halves for answer in post_lines(client, place, signs, path, params, half)]


def _untrusted(error: BaseException | None) -> bool:
    """Whether a certificate is behind the error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
