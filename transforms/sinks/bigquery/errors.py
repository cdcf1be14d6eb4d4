"""What an error of Google's clients means to a writer: try again, or give up; with its cause and the fix."""

import requests
from google.api_core.exceptions import Aborted, Forbidden, NotFound, RetryError, Unauthorized, Unknown
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from transforms.core.error_signs import BIGQUERY
from transforms.core.errors import Refused, Unavailable

LOG_IN = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
ROLES = "BigQuery Data Editor, BigQuery Job User and BigQuery Read Session User"
_FIXES = {
    DefaultCredentialsError: LOG_IN,
    GoogleAuthError: LOG_IN,
    Unauthorized: LOG_IN,
    Forbidden: f"give the account the roles {ROLES}",
    NotFound: "check the project and the dataset, then start the job again, which creates missing tables",
    requests.exceptions.SSLError: "correct the endpoint, or the certificates of this machine",
    Exception: "run `kpiflow doctor`, which checks everything that a job needs there",
}
"""What to do about an error, by the first type that fits."""
_PASSING = (
    Aborted,
    Unknown,
    RetryError,
    TransportError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)
_CONFLICT = 409
"""Already exists: the same request will not succeed later."""


def as_sink_error(error: Exception, name: str) -> Unavailable | Refused:
    """Return the error of a client as a sink raises it; `name` is the output's."""
    fix = next(fix for kind, fix in _FIXES.items() if isinstance(error, kind))
    if isinstance(error, DefaultCredentialsError):
        return Refused(f"there are no credentials for {name}; {fix}")
    if _may_pass(error):
        return Unavailable(f"{name} is unavailable ({_first_line(error)})")
    if isinstance(error, GoogleAuthError):
        return Refused(
            f"the credentials for {name} are not accepted or have expired ({_first_line(error)}); {fix}"
        )
    return Refused(f"{name} refuses the request: {_first_line(error)}; {fix}")


def may_rerun(error: Exception) -> bool:
    """Whether a job failed without effect and may succeed soon: another writer, or a limit of the rate."""
    text = str(error).lower()
    return any(
        sign in text for sign in ("concurrent update", "could not serialize access", "exceeded rate limits")
    )


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, requests.exceptions.SSLError):
        return False
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or error.retryable
    code = int(getattr(error, "code", None) or 0)
    status = 500 if isinstance(error, _PASSING) else 0 if code == _CONFLICT else code
    return BIGQUERY.passes(status, f"{' '.join(_details(error, 'reason'))} {error}")


def _first_line(error: Exception) -> str:
    """The first line of the error, in BigQuery's own words if it gave some."""
    error = getattr(error, "cause", None) or error  # what a RetryError tried again
    text = next(iter(_details(error, "message")), "") or getattr(error, "message", None) or str(error)
    return next(iter(str(text).strip().splitlines()), type(error).__name__)[:400]


def _details(error: Exception, key: str) -> list[str]:
    details = getattr(error, "errors", None) or ()
    return [str(detail[key]) for detail in details if isinstance(detail, dict) and detail.get(key)]
