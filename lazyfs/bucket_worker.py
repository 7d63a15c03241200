"""The process that shows one bucket as files: ``python -m skylift.lazyfs.bucket_worker``.

What it is to do comes as a line of JSON on its standard input, keys included, so that they are on no command
line. It says ``{"ready": true}`` or ``{"problem": "…"}`` on its standard output. It mounts in a mount
namespace of its own: who removes folders on this machine cannot remove objects by mistake. When its standard
input ends, it unmounts there; when nothing is mounted any more and all that was written was sent, it ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from skylift.lazyfs import mount_calls
from skylift.lazyfs.bucket_files import BucketFiles
from skylift.lazyfs.bucket_objects import BucketObjects
from skylift.lazyfs.open_store import bucket_of
from skylift.lazyfs.s3_bucket import Advice
from skylift.lazyfs.store import StoreError

ADVICE = Advice(
    "its keys are those of secret= of the CloudBucketMount, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "where that was made",
    "give the CloudBucketMount a secret= with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "the CloudBucketMount",
)
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")


def main() -> int:
    """See the module. 0 after a mount that ended, 1 where there was none."""
    wish: dict[str, Any] = json.loads(sys.stdin.readline())
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # It ends when the container has ended, and not before what was written was sent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target = Path(wish["target"])
    try:
        _take_keys(wish["env"])
        bucket = bucket_of(wish["url"], anonymous="AWS_ACCESS_KEY_ID" not in wish["env"], advice=ADVICE)
        objects = BucketObjects(bucket)
        objects.check()
        owner = (int(wish["owner"][0]), int(wish["owner"][1]))
        scratch = Path(wish["scratch"])
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount_calls.enter_new_namespace()
        connection = _mount(target, read_only=bool(wish["read_only"]))
    except (StoreError, OSError) as error:
        _say({"problem": str(error)})
        return 1
    threading.Thread(target=_unmount_at_end, args=(target,), name="end", daemon=True).start()
    files = BucketFiles(connection, objects, owner, scratch)
    _say({"ready": True})
    files.serve()
    logging.shutdown()
    return 0


def _unmount_at_end(target: Path) -> None:
    sys.stdin.read()
    with contextlib.suppress(OSError):
        mount_calls.unmount(target, lazily=True)


def _take_keys(env: dict[str, str]) -> None:
    """Have boto3 find these keys, and none of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in env.items() if name in KEYS})
    if "AWS_REGION" in env:  # which boto3 does not know
        os.environ.setdefault("AWS_DEFAULT_REGION", env["AWS_REGION"])
    os.environ.update(
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE="/dev/null",
        AWS_CONFIG_FILE="/dev/null",
    )


def _mount(target: Path, *, read_only: bool) -> int:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        # Containers' users are others than this process's; the kernel checks what they may.
        options = f"fd={connection},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        options += ",allow_other,default_permissions"
        flags = mount_calls.MS_NOSUID | mount_calls.MS_NODEV | (mount_calls.MS_RDONLY if read_only else 0)
        mount_calls.mount("skylift-bucket", target, "fuse.skylift", flags, options)
    except BaseException:
        os.close(connection)
        raise
    return connection


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
