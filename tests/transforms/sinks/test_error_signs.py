"""What an answer says decides whether it passes, whatever its status; the status counts where nothing is
said."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from google.api_core import exceptions

from schemas.tables import FLEET
from tests.s3 import wire
from tests.transforms.sinks.timeseries.test_influxdb import Fake, fleet, influx  # noqa: F401 (a fixture)
from transforms.core.error_signs import BIGQUERY, INFLUXDB, OBJECTS, VICTORIAMETRICS, Signs
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.bigquery.errors import as_sink_error
from transforms.sinks.timeseries.influxdb import InfluxDB
from transforms.storage.object_storage import ObjectStorage

ANY_STATUS = (400, 403, 404, 409, 422, 429, 500, 503)
PERMANENT: dict[Signs, list[str]] = {
    INFLUXDB: [
        "unexpected error writing points to database: field type conflict",
        "partial write: points beyond retention policy dropped=3",
        "partial write: max-values-per-tag limit exceeded (100001/100000)",
        "unauthorized access",
    ],
    VICTORIAMETRICS: [
        "cannot parse InfluxDB line",
        "the number of matching timeseries exceeds 30000; adjust -search.maxUniqueTimeseries",
        "cannot create snapshot: mkdir /data: permission denied",
    ],
    OBJECTS: [
        "answers 503 AccessDenied (Access Denied)",
        "answers 500 NoSuchBucket",
        "answers 400 ExpiredToken",
    ],
    BIGQUERY: [
        "accessDenied Access Denied: Dataset p:d",
        "Timeout of 60.0s exceeded, last exception: 403 Permission denied",
        "Billing has not been enabled for this project",
    ],
}
PASSING: dict[Signs, list[str]] = {
    INFLUXDB: [
        "engine: cache-max-memory-size exceeded: (1073741924/1073741824)",
        "timeout",
        "write /x: no space left on device",
    ],
    VICTORIAMETRICS: [
        "the storage is in read-only mode; check -storage.minFreeDiskSpaceBytes",
        "cannot handle more than 8 concurrent inserts during 1m0s",
        "cannot read request body: unexpected EOF",
    ],
    OBJECTS: [
        "answers 400 RequestTimeout",
        "answers 403 QuotaExceeded",
        "answers 409 ConditionalRequestConflict",
        "answers 400 KMS.ThrottlingException",
        "answers 400 IncompleteBody",
        "answers 507 XMinioStorageFull",
    ],
    BIGQUERY: [
        "quotaExceeded Quota exceeded",
        "Exceeded rate limits: too many table update operations",
        "backendError",
    ],
}


@pytest.mark.parametrize(
    ("signs", "said"), [(signs, said) for signs, some in PERMANENT.items() for said in some]
)
def test_a_permanent_error_is_known_by_its_words_whatever_its_status(signs: Signs, said: str) -> None:
    assert [status for status in (0, *ANY_STATUS) if signs.passes(status, said)] == []


@pytest.mark.parametrize(
    ("signs", "said"), [(signs, said) for signs, some in PASSING.items() for said in some]
)
def test_a_passing_error_is_known_by_its_words_whatever_its_status(signs: Signs, said: str) -> None:
    assert [status for status in (0, *ANY_STATUS) if not signs.passes(status, said)] == []


def test_where_nothing_is_said_the_status_decides() -> None:
    passing = {408, 409, 425, 429, 499, 500, 502, 503, 504, 507, 520}
    for signs, status in product(PERMANENT, (*passing, 0, 400, 401, 403, 404, 410, 412, 413, 422, 501, 505)):
        assert signs.passes(status, "") == (status in passing)


@pytest.mark.parametrize("status", [400, 409, 422, 500, 503])
def test_influxdb_is_not_asked_again_about_a_field_of_another_type(
    influx: tuple[type[Fake], InfluxDB],  # noqa: F811
    status: int,
) -> None:
    server, place = influx
    said = "unexpected error writing points to database: field type conflict"
    server.faults.append((status, {"code": "internal error", "message": said}))
    with pytest.raises(Refused, match="where no field has another type"):
        place.write(FLEET, fleet({"revision": 1}))


@pytest.mark.parametrize("status", [400, 403, 500])
def test_influxdb_whose_cache_is_full_is_asked_again(
    influx: tuple[type[Fake], InfluxDB],  # noqa: F811
    status: int,
) -> None:
    server, place = influx
    server.faults.append((status, {"message": "engine: cache-max-memory-size exceeded"}))
    with pytest.raises(Unavailable, match="is unavailable"):
        place.write(FLEET, fleet({"revision": 1}))


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (503, "AccessDenied", Refused, "s3:PutObject"),
        (500, "NoSuchBucket", Refused, "there is no bucket"),
        (503, "ExpiredToken", Refused, "the credentials are not accepted"),
        (403, "QuotaExceeded", Unavailable, "QuotaExceeded"),
        (400, "RequestTimeout", Unavailable, "RequestTimeout"),
        (400, "IncompleteBody", Unavailable, "IncompleteBody"),
    ],
)
def test_a_bucket_is_asked_again_by_the_code_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr("transforms.objects.place._RETRIES", {"max_retries": 0})
    answer: Callable[[str, str], Any] = lambda *_: (status, f"<Error><Code>{code}</Code></Error>")  # noqa: E731
    with wire("http://127.0.0.1:1", answer) as endpoint, pytest.raises(kind, match=words):
        ObjectStorage("s3", "b", f"{code}{status}", endpoint, "us-east-1").put("x", b"", None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.Unknown("PERMISSION_DENIED: no access"), Refused),
        (
            exceptions.RetryError("Timeout exceeded", exceptions.Forbidden("403 Access Denied: Table x")),
            Refused,
        ),
        (
            exceptions.BadRequest("Exceeded rate limits: too many table update operations for this table"),
            Unavailable,
        ),
        (exceptions.Forbidden("Billing has not been enabled for this project"), Refused),
        (exceptions.InternalServerError("oops"), Unavailable),
        (exceptions.Conflict("Already Exists: Table p:d.t"), Refused),
    ],
)
def test_bigquery_is_asked_again_by_what_it_says(error: Exception, kind: type[Exception]) -> None:
    assert type(as_sink_error(error, "bigquery://p/d")) is kind
