from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from skylift.backend.sharers import SharedStoreError, check_alone, note_gateway
from skylift.lazyfs.names import LocalNames


@pytest.fixture
def names(tmp_path: Path) -> LocalNames:
    return LocalNames(tmp_path / "names")


def test_one_gateway_is_alone(names: LocalNames, tmp_path: Path) -> None:
    check_alone(names, tmp_path)
    note_gateway(names, tmp_path, 30)
    check_alone(names, tmp_path)


def test_another_gateway_is_named(names: LocalNames, tmp_path: Path) -> None:
    note_gateway(names, tmp_path / "other", 30)
    with pytest.raises(SharedStoreError) as caught:
        check_alone(names, tmp_path)
    assert str(caught.value).startswith(
        f"other gateways keep their calls in this store too ({tmp_path}/other on "
    )
    assert str(caught.value).endswith(
        "and what these need is not known here. Give each gateway a folder of its own in the bucket "
        "(s3://BUCKET/FOLDER) if it is to be freed."
    )


def test_one_that_has_been_gone_for_long_does_not_count(names: LocalNames, tmp_path: Path) -> None:
    note_gateway(names, tmp_path / "other", 30)
    (name,) = names.under("gateways")
    until = json.loads(names.get(name) or b"")["until"]
    assert 31 * 24 * 3600 - 60 < until - time.time() <= 31 * 24 * 3600
    names.put(name, json.dumps({"where": "there", "until": time.time() - 1}).encode())
    check_alone(names, tmp_path)
    assert [] == names.under("gateways")
