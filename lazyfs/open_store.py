"""A store, and the names beside it, from a URL.

::

    ""  or  a path                             a folder of this machine
    s3://BUCKET/PREFIX?endpoint=&region=       S3, or any service that speaks it
    gs://BUCKET/PREFIX                         Google Cloud Storage, by its S3 interface (HMAC keys)
    oci://NAMESPACE/REGION/BUCKET/PREFIX       OCI Object Storage, by its S3 interface (customer secret keys)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from skylift.lazyfs.cache_folder import CacheFolder
from skylift.lazyfs.cached_store import CachedStore
from skylift.lazyfs.names import LocalNames, Names
from skylift.lazyfs.s3_bucket import STORE_ADVICE, Advice, Bucket
from skylift.lazyfs.s3_names import S3Names
from skylift.lazyfs.s3_store import S3Store
from skylift.lazyfs.store import LocalStore, Store, StoreError

CACHE_BUDGET = 50 << 30
"""Bytes, where nobody says otherwise."""

_GCS = "https://storage.googleapis.com"
_KNOWN = (
    "Known are a path, s3://BUCKET/PREFIX?endpoint=URL&region=REGION, gs://BUCKET/PREFIX and "
    "oci://NAMESPACE/REGION/BUCKET/PREFIX"
)
_OPTIONS = frozenset({"endpoint", "region", "profile"})
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*", re.IGNORECASE)


class StoreUrlError(StoreError):
    """A URL that names no store."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url!r} is not the URL of a store: {problem}. {_KNOWN}.")
        self.url = url


class OpenedStore(NamedTuple):
    """Both halves of a store."""

    store: Store
    names: Names


def open_store(
    url: str, home: Path, *, cache: Path | None = None, cache_budget: int = CACHE_BUDGET
) -> OpenedStore:
    """The store that a URL names. Nothing is sent to it yet.

    `home` is where the store of an empty URL is. `cache` is the folder in front of one that is far away,
    which one process has at a time (by default in `home`), and `cache_budget` how many bytes it keeps.

    Raises `StoreUrlError`, and `StoreError` where boto3 is not installed or the cache is in use.
    """
    if "://" not in url:
        if not url:  # as it has always been
            return OpenedStore(LocalStore(home / "store"), LocalNames(home / "names"))
        folder = Path(url).expanduser()
        return OpenedStore(LocalStore(folder / "blobs"), LocalNames(folder / "names"))
    bucket = bucket_of(url)
    kept = CacheFolder(cache or home / "cache", cache_budget)
    remote = S3Store(bucket, scratch=kept.folder / "scratch")
    return OpenedStore(CachedStore(remote, kept), S3Names(bucket))


def bucket_of(url: str, *, anonymous: bool = False, advice: Advice = STORE_ADVICE) -> Bucket:
    """The bucket that a URL names; `anonymous` and `advice` are for `Bucket`. Raises `StoreUrlError` and
    `StoreError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "gs", "oci"):
        raise StoreUrlError(url, f"{parts.scheme}:// is not known")
    if parts.username or parts.password:
        clean = parts._replace(netloc=parts.hostname or "").geturl()
        raise StoreUrlError(clean, "it must not have keys in it, which belong where boto3 looks for them")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise StoreUrlError(url, f"{unknown[0]}= is not one of {', '.join(sorted(_OPTIONS))}")
    endpoint, region = options.get("endpoint") or None, options.get("region") or None
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise StoreUrlError(url, f"its endpoint {endpoint!r} does not begin with http:// or https://")
    path = [unquote(part) for part in parts.path.split("/") if part]
    name = parts.netloc
    if parts.scheme == "gs":
        endpoint, region = endpoint or _GCS, region or "auto"
    elif parts.scheme == "oci":
        if len(path) < 2:
            raise StoreUrlError(url, "it needs a namespace, a region and a bucket")
        namespace, region, name, *path = name, path[0], path[1], *path[2:]
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(region):
            raise StoreUrlError(url, f"{namespace}/{region} is no namespace and region")
        endpoint = endpoint or f"https://{namespace}.compat.objectstorage.{region}.oraclecloud.com"
    if not name:
        raise StoreUrlError(url, "it names no bucket")
    profile = options.get("profile") or None
    try:
        return Bucket(
            name,
            "/".join(path),
            endpoint=endpoint,
            region=region,
            profile=profile,
            anonymous=anonymous,
            advice=advice,
        )
    except ValueError as error:
        raise StoreUrlError(url, str(error)) from error
