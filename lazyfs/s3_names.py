"""Names beside a store in a bucket: the object ``names/NAME`` under the store's prefix."""

from __future__ import annotations

import contextlib
from typing import Any

from skylift.lazyfs.names import Names, check_name
from skylift.lazyfs.s3_bucket import (
    Bucket,
    MissingObjectError,
    ObjectExistsError,
)


class S3Names(Names):
    """Values as objects of a bucket. Thread-safe. Every method raises `BucketError`, which is an OSError."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def put(self, name: str, value: bytes) -> None:
        """See `Names.put`."""
        self.bucket.request("put_object", lambda answer: None, Key=self._key(name), Body=value)

    def get(self, name: str) -> bytes | None:
        """See `Names.get`."""
        return self._get(name)[0]

    def delete(self, name: str) -> None:
        """See `Names.delete`."""
        with contextlib.suppress(MissingObjectError):
            self.bucket.request("delete_object", lambda answer: None, Key=self._key(name))

    def under(self, prefix: str) -> list[str]:
        """See `Names.under`."""
        start = self.bucket.key("names/")
        found = self.bucket.objects(self._key(prefix) + "/")
        return sorted(str(entry["Key"])[len(start) :] for entry in found)

    def swap(self, name: str, expected: bytes | None, value: bytes) -> bool:
        """Put a value where `expected` is now, or nothing is (None); False where something else is.

        Of several who do so at the same time, one is told True. A request whose answer was lost may say False
        though it was done: read the name again. Raises `ConditionUnknownError` where the service cannot.
        """
        current, tag = self._get(name)
        if current != expected:
            return False
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": tag}
        try:
            self.bucket.request(
                "put_object", lambda answer: None, Key=self._key(name), Body=value, **condition
            )
        except (ObjectExistsError, MissingObjectError):
            return False
        return True

    def _get(self, name: str) -> tuple[bytes | None, str]:
        def read(answer: Any) -> tuple[bytes, str]:
            with contextlib.closing(answer["Body"]) as body:
                return body.read(), str(answer["ETag"])

        try:
            return self.bucket.request("get_object", read, Key=self._key(name))
        except MissingObjectError:
            return None, ""

    def _key(self, name: str) -> str:
        check_name(name)
        return self.bucket.key(f"names/{name}")
