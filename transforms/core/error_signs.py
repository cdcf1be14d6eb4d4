"""Whether an error of a service passes: the words of its answer decide, and the HTTP status if they do not.

Servers and the proxies before them answer 500 to a schema that never fits, 400 to a request that timed out,
403 to a full quota. Each service has one `Signs` with its words for errors that pass and that do not.
"""

import re
from dataclasses import dataclass

_PASSING_STATUSES = frozenset({408, 409, 425, 429, 499})
_PERMANENT_FROM_500 = frozenset({501, 505})
_IGNORE_CASE = re.IGNORECASE


@dataclass(frozen=True)
class Signs:
    """Two regular expressions, searched without regard to case; `permanent` wins if both are found."""

    permanent: str
    passing: str

    def passes(self, status: int, said: str) -> bool:
        """Whether the same request may succeed later.

        Args:
            status: the HTTP status; 0 if there is none, which is permanent unless the words say otherwise.
            said: the words of the error, with its code.
        """
        if re.search(self.permanent, said, _IGNORE_CASE):
            return False
        if re.search(self.passing, said, _IGNORE_CASE):
            return True
        return status in _PASSING_STATUSES or (status >= 500 and status not in _PERMANENT_FROM_500)


INFLUXDB = Signs(
    permanent=r"type conflict|retention policy|unable to parse|max-(series|values)-per|(bucket"
    r"|organization) .*not found|unauthorized|insufficient permissions|permission denied"
    r"|read-only file system",
    passing=r"time(d )?out|cache-max-memory-size|(engine|shard|database) is closed|too many requests"
    r"|rate limit|quota|no space left|too many open files|unexpected EOF",
)
VICTORIAMETRICS = Signs(
    permanent=r"cannot (parse|unmarshal)|-search\.max(UniqueTimeseries|SamplesPerQuery|SeriesPerQuery)"
    r"|unsupported path|permission denied|read-only file system",
    passing=r"time(d )?out|read-?only mode|concurrent|cannot handle more|unexpected EOF|connection (reset"
    r"|refused)|no space left|too many open files",
)
OBJECTS = Signs(
    permanent=r"AccessDenied|AllAccessDisabled|AccountProblem|accountDisabled|NoSuchBucket|InvalidBucketName"
    r"|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|NotSignedUp"
    r"|InvalidObjectState|EntityTooLarge|NotImplemented|KMS\.(Disabled|NotFound|InvalidKeyUsage)",
    passing=r"InternalError|OperationAborted|ConditionalRequestConflict|RequestTime(out|TooSkewed)"
    r"|ServiceUnavailable|SlowDown|Throttl|TooManyRequests|RequestLimitExceeded|rateLimitExceeded"
    r"|BandwidthLimitExceeded|IncompleteBody|BadDigest|quota.?exceeded|StorageFull|no space left"
    r"|ServerNotInitialized",
)
BIGQUERY = Signs(
    permanent=r"\b(accessDenied|accessNotConfigured|billingNotEnabled|billingTierLimitExceeded"
    r"|responseTooLarge)\b|access denied|permission.?denied|billing has not been enabled"
    r"|unrecognized name|no such field|too many partitions|already exists",
    passing=r"\b(backendError|badGateway|internalError|jobBackendError|jobInternalError|jobRateLimitExceeded"
    r"|quotaExceeded|rateLimitExceeded|stopped|tableUnavailable|timeout)\b|exceeded rate limits"
    r"|concurrent update|could not serialize access",
)
