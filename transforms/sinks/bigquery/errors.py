"""What an error of Google's clients means to a writer: try again, or give up; with its cause and the fix."""

from typing import Any

import requests
from google.api_core.exceptions import Aborted, Forbidden, NotFound, RetryError, Unauthorized, Unknown
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from transforms.core.errors import Refused, Unavailable
from transforms.sinks.error_signs import BIGQUERY

_EXISTS = 409
_PASSING_TYPES = (
    Aborted,
    Unknown,
    RetryError,
    TransportError,
    requests.RequestException,
    ConnectionError,
    TimeoutError,
)

MISSING = "rows of this batch are not in the inbox; is the clock of this machine right"
"""What a merge says that would lose rows: they are not to be seen yet, or lie in a partition that has expired."""
LOG_IN = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account"
PERMIT = "give the account the roles BigQuery Data Editor, BigQuery Job User and BigQuery Read Session User"


def judged(error: Exception, name: str) -> Unavailable | Refused:
    """The error as a sink says it; `name` is the place."""
    if isinstance(error, GoogleAuthError):
        return _of_credentials(error, name)
    if isinstance(error, requests.exceptions.SSLError):
        return Refused(
            f"{name} fails at TLS ({_line(error)}); correct the endpoint, or the certificates of this machine"
        )
    reasons = {
        str(each.get("reason")) for each in getattr(error, "errors", None) or () if isinstance(each, dict)
    }
    code = int(getattr(error, "code", None) or 0)
    status = 500 if isinstance(error, _PASSING_TYPES) else 0 if code == _EXISTS else code
    if BIGQUERY.passes(status, f"{' '.join(reasons)} {error}") or MISSING in str(error):
        return Unavailable(f"{name} does not take this just now ({_line(error)})")
    return Refused(f"{name} refuses this: {_line(error)}; {_mend(error)}")


def in_the_way(error: Exception) -> bool:
    """Whether another writer changed the same table at the same time."""
    text = str(error).lower()
    return "concurrent update" in text or "could not serialize access" in text


def _of_credentials(error: GoogleAuthError, name: str) -> Unavailable | Refused:
    if isinstance(error, DefaultCredentialsError):
        return Refused(f"there are no credentials for {name}; {LOG_IN}")
    if isinstance(error, TransportError) or error.retryable:
        return Unavailable(f"the credentials for {name} cannot be renewed just now ({_line(error)})")
    return Refused(f"the credentials for {name} are not accepted, or have expired ({_line(error)}); {LOG_IN}")


def _mend(error: Exception) -> str:
    if isinstance(error, Unauthorized):
        return LOG_IN
    if isinstance(error, Forbidden):
        return PERMIT
    if isinstance(error, NotFound):
        return "name a project that is there, and the dataset's own location; then start the job again, which makes its tables"
    return "`kpiflow doctor` looks at everything that a job needs there"


def _line(error: Exception) -> str:
    """The error's first line, in BigQuery's own words where it has some."""
    details: Any = getattr(error, "errors", None) or ()
    told = [each["message"] for each in details if isinstance(each, dict) and each.get("message")]
    lines = str(told[0] if told else getattr(error, "message", None) or error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__
