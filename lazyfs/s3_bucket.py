"""One bucket of an S3-compatible service: requests that are tried again, and errors that say what to do.

::

    StoreError
    └── BucketError                  also an OSError, as `Names` has it
        ├── NoBucketError            no such bucket
        ├── BucketDeniedError        no credentials, or not allowed
        ├── BucketClockError         this machine's clock is wrong
        ├── BucketUnreachableError   no answer, or none but "later"
        └── ConditionUnknownError    it cannot write on a condition
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeVar

from skylift.lazyfs.store import StoreError

EXTRA = "skylift[aws]"

_T = TypeVar("_T")
_ATTEMPTS = 6
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
_CONNECT_SECONDS = 10
_READ_SECONDS = 30
_PATIENCE = 25.0
"""Seconds after which a request is not tried again, so that who waits for it hears of it within a minute."""
_LATER_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_LATER_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
    }
)
_DENIED_CODES = {
    "AccessDenied": "these credentials may not do that",
    "AllAccessDisabled": "all access to it is disabled",
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the service does not know this access key",
    "InvalidToken": "the session token is not valid",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
_SKEW_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired"})


class BucketError(StoreError, OSError):
    """A bucket's service refused, or did not answer."""

    def __init__(self, message: str, bucket: str) -> None:
        super().__init__(message)
        self.bucket = bucket


class NoBucketError(BucketError):
    """There is no such bucket."""


class BucketDeniedError(BucketError):
    """The service does not let these credentials in, or there are none."""


class BucketClockError(BucketError):
    """The clock of this machine differs too much from the service's."""


class BucketUnreachableError(BucketError):
    """The service did not answer, or asked to come later, as often as it was tried."""


class ConditionUnknownError(BucketError):
    """The service cannot write on a condition."""


class MissingObjectError(Exception):
    """There is no such object; the caller knows what that means."""


class ObjectExistsError(Exception):
    """A write on a condition found another object there."""


class Advice(NamedTuple):
    """For messages: where to look."""

    keys: str
    """Where keys are taken from; a sentence without its end."""
    missing: str
    """What to do where there are none; the same."""
    named: str
    """Where the bucket, its endpoint and its region are named."""


STORE_ADVICE = Advice(
    "boto3 takes the keys from AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws or the machine's role",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give the machine a role",
    "the store's URL",
)


class Bucket:
    """Requests to one bucket. Thread-safe."""

    def __init__(
        self,
        name: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        connections: int = 32,
        path_style: bool | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        profile: str | None = None,
        anonymous: bool = False,
        advice: Advice = STORE_ADVICE,
    ) -> None:
        """`prefix` comes before every key, with a slash between. `endpoint` is a URL; None is AWS.

        `path_style`: the bucket in the path of a URL, not in the host's name; None is "where there is an
        endpoint". Keys are looked for where boto3 looks, or in a `profile` of ~/.aws;
        `anonymous` wants none. `advice` is for messages.

        Raises `StoreError` where boto3 is not installed, and ValueError for what cannot be a bucket.
        """
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}", name):
            raise ValueError(f"{name!r} is not the name of a bucket")
        try:
            import boto3
            from botocore import UNSIGNED
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise StoreError(
                f"The bucket {name} needs boto3, which is not installed here: pip install '{EXTRA}'."
            ) from error
        self.name = name
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.endpoint = endpoint
        self.region = region
        self.advice = advice
        self._sleep = sleep
        self._clock = clock
        self._seen = False
        """The bucket itself is there: an answer said so."""
        self._conditions = True
        """The service understands conditional writes, as far as is known."""
        if path_style is None:
            path_style = endpoint is not None
        # Services other than AWS's know nothing of its checksums in trailers.
        checks: dict[str, Any] = {} if endpoint is None else {"request_checksum_calculation": "when_required"}
        if anonymous:
            checks["signature_version"] = UNSIGNED
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1},  # they are ours
            s3={"addressing_style": "path" if path_style else "auto"},
            response_checksum_validation="when_required",  # every blob is checked against its name
            user_agent_extra="skylift",
            **checks,
        )
        try:
            self._client = boto3.Session(profile_name=profile).client(
                "s3",
                endpoint_url=endpoint,
                region_name=region or ("us-east-1" if endpoint else None),
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise BucketError(
                f"The bucket {name} cannot be used: {_sentence(error)}. Look at the URL of the store and at "
                "the settings of boto3 (AWS_PROFILE, ~/.aws).",
                name,
            ) from error

    def __repr__(self) -> str:
        return f"Bucket({self.where!r})"

    @property
    def where(self) -> str:
        """For messages."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/") + (
            f" at {self.endpoint}" if self.endpoint else ""
        )

    def key(self, name: str) -> str:
        """The key of what is called `name` under the prefix."""
        return self.prefix + name

    def request(self, operation: str, read: Callable[[Any], _T], **arguments: Any) -> _T:
        """One request (its name as a method of boto3's client) and what `read` makes of the answer.

        Both are done again after errors that may pass. Raises `BucketError`, `MissingObjectError` and
        `ObjectExistsError`.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        method = getattr(self._client, operation)
        last: Exception | None = None
        since, attempt = self._clock(), 0
        while attempt < _ATTEMPTS and self._clock() - since < _PATIENCE:
            if last is not None:
                self._sleep(_wait(attempt, last))
            attempt += 1
            try:
                result = read(method(Bucket=self.name, **arguments))
            except ClientError as error:
                if not _may_pass(error):
                    self._refused(operation, error, "IfNoneMatch" in arguments or "IfMatch" in arguments)
                last = error
            except (BotoCoreError, HTTPError, ConnectionError, TimeoutError) as error:
                if not _is_network(error):
                    raise self._misused(error) from error
                last = error
            else:
                self._seen = True
                return result
        assert last is not None
        raise self._unreachable(last, attempt) from last

    def write_once(self, operation: str, **arguments: Any) -> bool:
        """A write that leaves what is there already as it is, where the service can do that.

        False where something was there. Raises `BucketError`.
        """
        if self._conditions:
            try:
                self.request(operation, _nothing, IfNoneMatch="*", **arguments)
            except ObjectExistsError:
                return False
            except ConditionUnknownError:
                self._conditions = False
            else:
                return True
        self.request(operation, _nothing, **arguments)
        return True

    def objects(self, prefix: str, page_size: int = 1000) -> Iterator[dict[str, Any]]:
        """The objects whose keys begin with `prefix`, as the service lists them, so many in a request.

        Raises `BucketError`.
        """
        page: dict[str, Any] = {"MaxKeys": page_size}
        while True:
            try:
                answer = self.request("list_objects_v2", lambda answer: answer, Prefix=prefix, **page)
            except MissingObjectError:
                raise self._no_bucket() from None
            yield from answer.get("Contents", ())
            if not answer.get("IsTruncated"):
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    def there(self) -> bool:
        """Whether the bucket answers."""
        try:
            self.request("head_bucket", _nothing)
        except (BucketError, MissingObjectError):
            return False
        return True

    def _refused(self, operation: str, error: Any, conditional: bool) -> NoReturn:
        """Raises what a refusal means."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
        if code == "NoSuchBucket" or (operation == "head_bucket" and status == 404):
            raise self._no_bucket() from error
        if code in ("NoSuchKey", "NoSuchUpload") or status == 404:
            if not self._seen and operation == "head_object":
                self.request("head_bucket", _nothing)  # the answer to a HEAD does not say which is missing
            raise MissingObjectError from error
        if status == 412 or code == "PreconditionFailed":
            raise ObjectExistsError from error
        if conditional and code in ("NotImplemented", "InvalidArgument", "InvalidRequest"):
            raise ConditionUnknownError(
                f"The bucket {self.where} does not know how to do {operation}: {message or code}.", self.name
            ) from error
        if code in _SKEW_CODES:
            raise BucketClockError(
                f"The bucket {self.where} refuses requests since this machine's clock is wrong: it says "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC. Set it: timedatectl set-ntp true.",
                self.name,
            ) from error
        if status in (301, 307) or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
            raise BucketError(
                f"The bucket {self.name} is in another region{f', {region}' if region else ''}. Say so in "
                f"{self.advice.named}: s3://{self.name}/{self.prefix}?region={region or 'REGION'}",
                self.name,
            ) from error
        if code in _DENIED_CODES or status in (401, 403):
            reason = _DENIED_CODES.get(code, "these credentials may not do that")
            raise BucketDeniedError(
                f"The bucket {self.where} does not let us in: {reason} ({operation}"
                f"{f': {message}' if message else ''}). It needs s3:GetObject, s3:PutObject, s3:DeleteObject "
                f"and s3:ListBucket; {self.advice.keys}.",
                self.name,
            ) from error
        raise BucketError(
            f"The bucket {self.where} refused {operation}: {message or code or status}.", self.name
        ) from error

    def _no_bucket(self) -> NoBucketError:
        return NoBucketError(
            f"There is no bucket {self.name} at {self.endpoint or 'AWS'}. Create it, or look at "
            f"{self.advice.named} for its name, its endpoint and its region.",
            self.name,
        )

    def _misused(self, error: Exception) -> BucketError:
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"):
            return BucketDeniedError(
                f"The bucket {self.where} needs credentials and none were found: {self.advice.missing}.",
                self.name,
            )
        return BucketError(f"The bucket {self.where} cannot be used: {_sentence(error)}.", self.name)

    def _unreachable(self, error: Exception, attempts: int) -> BucketUnreachableError:
        response = getattr(error, "response", None)
        if response is not None:
            what = response.get("Error", {}).get("Code") or response["ResponseMetadata"]["HTTPStatusCode"]
            return BucketUnreachableError(
                f"The bucket {self.where} answered {what} {_times(attempts)}. It is overloaded or down; try "
                "again later.",
                self.name,
            )
        return BucketUnreachableError(
            f"The bucket {self.where} cannot be reached ({_sentence(error)}), tried {_times(attempts)}. Look "
            f"at the network of this machine and at the endpoint in {self.advice.named}.",
            self.name,
        )


def _nothing(answer: Any) -> None:
    return None


def _may_pass(error: Any) -> bool:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    return status in _LATER_STATUS or code in _LATER_CODES


def _is_network(error: Exception) -> bool:
    import botocore.exceptions as known
    from urllib3.exceptions import HTTPError

    if isinstance(error, known.SSLError | known.ProxyConnectionError):
        return False  # these stay as they are
    return isinstance(
        error,
        (
            known.HTTPClientError,
            known.ConnectionError,
            known.IncompleteReadError,
            known.ChecksumError,
            HTTPError,
            OSError,
        ),
    )


def _wait(attempt: int, error: Exception) -> float:
    """Seconds; longer each time, and never the same for two who were refused together."""
    answer = getattr(error, "response", None) or {}  # also None, where there was none
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    asked = str(headers.get("retry-after", ""))
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
    wait: float = longest * (0.5 + random.random() / 2)  # noqa: S311  # no secret
    return max(wait, min(float(asked), 2 * _LONGEST_WAIT)) if asked.isdigit() else wait


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
