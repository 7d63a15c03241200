"""Buckets of S3 and of what speaks its protocol, as folders of containers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from skylift.exceptions import InvalidError
from skylift.wire import VolumeMount

if TYPE_CHECKING:
    from skylift.http import Http

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")
_NEEDED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_KEYS = (*_NEEDED, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")


class CloudBucketMount:
    """A bucket that containers have as a folder::

        data = skylift.CloudBucketMount("my-data", key_prefix="images/", read_only=True)

        @app.function(volumes={"/data": data})
        def work(): ...

    Objects are files, and what their keys have in common up to a slash is a folder. A file that is written is
    sent as a whole when it is closed. Nothing of it is versioned by us: see docs/volumes.md.
    """

    def __init__(
        self,
        bucket_name: str,
        bucket_endpoint_url: str | None = None,
        key_prefix: str | None = None,
        secret: Mapping[str, str] | None = None,
        read_only: bool = False,
        *,
        oidc_auth_role_arn: str | None = None,
        requester_pays: bool = False,
        force_path_style: bool = False,
    ) -> None:
        """`bucket_endpoint_url` is that of a service other than AWS's. Only objects whose keys begin with
        `key_prefix`, a folder, are seen. `secret` has ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` and
        may have ``AWS_SESSION_TOKEN`` and ``AWS_REGION``; without one, the environment's are taken, and where
        that has none, the bucket must be public. With an endpoint, the bucket is always named in the path
        (`force_path_style`).

        Raises `InvalidError`.
        """
        what = f"CloudBucketMount({bucket_name!r}"
        if not isinstance(bucket_name, str) or not _NAME.fullmatch(bucket_name):
            raise InvalidError(f'{what}): the name of a bucket, such as "my-data", without s3://')
        if oidc_auth_role_arn is not None or requester_pays:
            name = "requester_pays" if requester_pays else "oidc_auth_role_arn"
            raise InvalidError(f"{what}, {name}=…): {name} is not built yet")
        if force_path_style and bucket_endpoint_url is None:
            raise InvalidError(f"{what}, force_path_style=True) needs a bucket_endpoint_url")
        self._name = bucket_name
        self._endpoint = _checked_endpoint(what, bucket_endpoint_url)
        self._prefix = _checked_prefix(what, key_prefix)
        self._read_only = bool(read_only)
        self._env = _checked_keys(what, secret)

    def __repr__(self) -> str:
        return f"CloudBucketMount({self._where!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Keys do not travel with code."""
        return {**self.__dict__, "_env": {}}

    @property
    def _where(self) -> str:
        return f"s3://{self._name}/{self._prefix}".rstrip("/")

    def _mount(self, http: Http, path: str) -> VolumeMount:
        """As it is part of what a container is made of."""
        url = f"s3://{self._name}/{quote(self._prefix)}"
        if self._endpoint:
            url += f"?endpoint={quote(self._endpoint, safe='')}"
        return VolumeMount(
            path=path, name=self._where, read_only=self._read_only, bucket=url, bucket_env=dict(self._env)
        )


def _checked_endpoint(what: str, endpoint: object) -> str:
    if endpoint is None:
        return ""
    if not isinstance(endpoint, str) or not re.match(r"https?://[^/@]+/?\Z", endpoint):
        shown = re.sub("//[^/]*@", "//…@", str(endpoint))
        raise InvalidError(
            f"{what}, bucket_endpoint_url={shown!r}): the URL of a service, such as "
            '"https://minio.example:9000", without a path and without keys'
        )
    return endpoint.rstrip("/")


def _checked_prefix(what: str, prefix: object) -> str:
    if prefix is None:
        return ""
    if not isinstance(prefix, str) or prefix.startswith("/") or "//" in prefix or ".." in prefix.split("/"):
        raise InvalidError(f'{what}, key_prefix={prefix!r}): a folder of the bucket, such as "images/"')
    return prefix.rstrip("/")


def _checked_keys(what: str, secret: object) -> dict[str, str]:
    """Those of `secret`, or of the environment. No message has a value."""
    if secret is not None and not isinstance(secret, Mapping):
        raise InvalidError(
            f"{what}, secret=…): a dict with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(skylift.Secret is not built yet)"
        )
    given: Mapping[Any, Any] = os.environ if secret is None else secret
    keys = {name: given[name] for name in _KEYS if given.get(name)}
    missing = [name for name in _NEEDED if name not in keys]
    if secret is None and len(missing) == len(_NEEDED):
        return {name: value for name, value in keys.items() if "REGION" in name}
    if missing:
        where = "the environment" if secret is None else "the secret"
        raise InvalidError(f"{what}, …): {where} has no {' and no '.join(missing)}")
    if not all(isinstance(value, str) for value in keys.values()):
        raise InvalidError(f"{what}, secret=…): the values of a secret are text")
    return keys
