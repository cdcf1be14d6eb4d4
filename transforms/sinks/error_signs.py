"""Whether an error of an output passes. What an answer says decides; its HTTP status counts only where the words say nothing.

Servers and the proxies before them answer 500 to a schema that never fits, 400 to a request that timed out, 403 to a full
quota. Each service has one `Signs`, which lists its words for both.
"""

import re
from dataclasses import dataclass

_PASSING_STATUSES = frozenset({408, 409, 425, 429, 499})
_PERMANENT_FROM_500 = frozenset({501, 505})
_IGNORE_CASE = re.IGNORECASE


@dataclass(frozen=True)
class Signs:
    """Two regular expressions, searched for without regard to case. `permanent` wins where both are found."""

    permanent: str
    passing: str

    def passes(self, status: int, said: str) -> bool:
        """Whether the same request may succeed later.

        Args:
            status: of HTTP; 0 where there is none, which is permanent unless the words say otherwise.
            said: the words of the error, its code included.
        """
        if re.search(self.permanent, said, _IGNORE_CASE):
            return False
        if re.search(self.passing, said, _IGNORE_CASE):
            return True
        return status in _PASSING_STATUSES or (status >= 500 and status not in _PERMANENT_FROM_500)


INFLUXDB = Signs(
    permanent=r"type conflict|retention policy|unable to parse|max-(series|values)-per|(bucket|organization) .*not found"
    r"|unauthorized|insufficient permissions|permission denied|read-only file system",
    passing=r"time(d )?out|cache-max-memory-size|(engine|shard|database) is closed|too many requests|rate limit|quota"
    r"|no space left|too many open files|unexpected EOF",
)
VICTORIAMETRICS = Signs(
    permanent=r"cannot (parse|unmarshal)|-search\.max(UniqueTimeseries|SamplesPerQuery|SeriesPerQuery)|unsupported path"
    r"|permission denied|read-only file system",
    passing=r"time(d )?out|read-?only mode|concurrent|cannot handle more|unexpected EOF|connection (reset|refused)"
    r"|no space left|too many open files",
)
OBJECTS = Signs(
    permanent=r"AccessDenied|AllAccessDisabled|AccountProblem|accountDisabled|NoSuchBucket|InvalidBucketName|InvalidAccessKeyId"
    r"|SignatureDoesNotMatch|ExpiredToken|InvalidToken|NotSignedUp|InvalidObjectState|EntityTooLarge|NotImplemented"
    r"|KMS\.(Disabled|NotFound|InvalidKeyUsage)",
    passing=r"InternalError|OperationAborted|ConditionalRequestConflict|RequestTime(out|TooSkewed)|ServiceUnavailable|SlowDown"
    r"|Throttl|TooManyRequests|RequestLimitExceeded|rateLimitExceeded|BandwidthLimitExceeded|IncompleteBody|BadDigest"
    r"|quota.?exceeded|StorageFull|no space left|ServerNotInitialized",
)
BIGQUERY = Signs(
    permanent=r"\b(accessDenied|accessNotConfigured|billingNotEnabled|billingTierLimitExceeded|responseTooLarge)\b|access denied"
    r"|permission.?denied|billing has not been enabled|unrecognized name|no such field|too many partitions|already exists",
    passing=r"\b(backendError|badGateway|internalError|jobBackendError|jobInternalError|jobRateLimitExceeded|quotaExceeded"
    r"|rateLimitExceeded|stopped|tableUnavailable|timeout)\b|exceeded rate limits|concurrent update|could not serialize access",
)
