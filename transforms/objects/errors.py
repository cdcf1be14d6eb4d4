"""What an error of an object store means: try again, or give up; with its cause and its fix.

The client library (obstore) gives an error as text: that of the request, of the HTTP answer, or of the
network.
"""

import re
from typing import NamedTuple

from transforms.core.error_signs import OBJECTS
from transforms.core.errors import Refused, Unavailable

ONE_MACHINE = "let a single machine write there, and add ?conditions=no to the URL"
"""The fix if a server does not honour conditional puts."""
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN if they came with one), "
    "install boto3 to use AWS_PROFILE, or run where a role gives them",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, or "
    "run where a service account is attached",
}
"""The fix if credentials are missing or wrong, by the scheme of the URL."""
_PERMISSIONS = {
    "s3": "allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject on its "
    "objects",
    "gs": "grant roles/storage.objectUser on the bucket",
}
_CREDENTIAL_CODES = (
    "AuthenticationRequired",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)
_PERMISSION_CODES = ("AccessDenied", "AllAccessDisabled")
_REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect")
_ISSUERS = re.compile(
    r"https?://(169\.254\.|sts\.|oauth2\.|iamcredentials\.)"
    r"|/latest/api/token|/latest/meta-data/|token request"
)
"""Signs that credentials were requested, and nothing of the bucket yet."""
_NETWORK = {
    "ConnectionRefused": "it refuses connections",
    "dns error": "its name is not known",
    "TimedOut": "nothing came in time",
    "error sending request": "the connection broke",
    "body error": "the connection broke in the middle of an answer",
}


class Bucket(NamedTuple):
    """What the text of an error needs: the storage's name, the scheme of its URL, and the bucket."""

    name: str
    scheme: str
    bucket: str


class StoreAnswer(NamedTuple):
    """An error of the client: its text, the HTTP status (0 if nothing was answered), the server's own code,
    and a sentence about it that holds no credentials and no name of an object."""

    text: str
    status: int
    code: str
    said: str

    @classmethod
    def parse(cls, text: str) -> "StoreAnswer":
        """What the text of an error says."""
        status = int(next(iter(re.findall(r"status code: (\d{3})", text)), 0))
        code, *words = (
            next(iter(re.findall(f"<{tag}>([^<]*)</{tag}>", text)), "")
            for tag in ("Code", "Message", "Details")
        )
        cause = ", ".join(filter(None, words))[:300]
        said = f"answers {status} {code}".rstrip() + (f" ({cause})" if cause else "")
        if not status:
            network = next((meaning for sign, meaning in _NETWORK.items() if sign in text), "")
            said = f"does not answer ({network})" if network else f"cannot be used ({_first_line(text)})"
        return cls(text, status, code, said)

    @property
    def is_busy(self) -> bool:
        """Whether the same request may be answered later."""
        return OBJECTS.passes(self.status, self.said if self.status else "")

    @property
    def is_network(self) -> bool:
        """Whether no answer came, or not all of it."""
        return not self.status and any(sign in self.text for sign in _NETWORK)

    @property
    def asked_for_credentials(self) -> bool:
        """Whether the request was one for credentials."""
        return _ISSUERS.search(self.text) is not None


def explain_answer(
    answer: StoreAnswer, bucket: Bucket, unauthenticated: bool, has_answered: bool
) -> Refused | Unavailable:
    """The error to raise. `has_answered`: this process has used the bucket before, so it had credentials."""
    said = f"{bucket.name} {answer.said}"
    not_accepted = answer.code in _CREDENTIAL_CODES or unauthenticated or answer.status == 401
    if answer.asked_for_credentials or not_accepted:
        return _explain_credentials(answer, bucket, has_answered)
    if answer.is_busy:
        return Unavailable(f"{said}; it may be busy, and the clock of this machine should be right")
    if answer.status == 404 or answer.code == "NoSuchBucket":
        return Refused(f"{bucket.name}: there is no bucket {bucket.bucket!r}; make it, or name another")
    if answer.code in _REGION_CODES or "configured region" in answer.text:
        return Refused(f"{said}: the bucket is in another region; give ?region=, or set AWS_REGION")
    if answer.status == 403 or answer.code in _PERMISSION_CODES:
        return Refused(f"{said}: it is not permitted; {_PERMISSIONS[bucket.scheme]}")
    if answer.status:
        return Refused(f"{said}; if it knows no conditional puts: {ONE_MACHINE}")
    return _explain_silence(answer, bucket)


def _explain_credentials(answer: StoreAnswer, bucket: Bucket, has_answered: bool) -> Refused | Unavailable:
    fix = CREDENTIALS[bucket.scheme]
    if not answer.asked_for_credentials:
        return Refused(f"{bucket.name} {answer.said}: the credentials are not accepted; {fix}")
    if has_answered or answer.is_busy:
        return Unavailable(f"{bucket.name}: the credentials cannot be renewed now; if they never can: {fix}")
    return Refused(f"{bucket.name}: there are no credentials; {fix}")


def _explain_silence(answer: StoreAnswer, bucket: Bucket) -> Refused | Unavailable:
    """The error if nothing was answered at all."""
    said = f"{bucket.name} {answer.said}"
    if "InvalidCertificate" in answer.text:
        fix = "correct the URL, or let this machine trust its issuer"
        return Refused(f"{bucket.name}: its certificate is not trusted; {fix}")
    if answer.is_network:
        return Unavailable(f"{said}; start it, or correct the URL")
    return Refused(f"{said}; if that is about credentials: {CREDENTIALS[bucket.scheme]}")


def _first_line(text: str) -> str:
    """The first line, without the name of the object and the request."""
    return re.sub(r"Error performing \S+ \S+ in \S+ - ", "", text.partition("\n")[0])[:300]
