"""Sources of randomness are renewed, and what cannot be renewed is said."""

from __future__ import annotations

import importlib
import random
import ssl
import sys
import tempfile
import types
import uuid
from collections.abc import Callable

import pytest

from skylift.runtime.runner.randomness import reseed


def after_the_same_past(draw: Callable[[], object], seed: Callable[[], object]) -> list[object]:
    """What two processes draw that were copied from one."""
    drawn = []
    for _ in range(2):
        seed()
        reseed()
        drawn.append(draw())
    return drawn


def test_random() -> None:
    one, other = after_the_same_past(random.random, lambda: random.seed(1))
    assert one != other


def test_numpy() -> None:
    numpy_random = importlib.import_module("numpy.random")
    one, other = after_the_same_past(numpy_random.random, lambda: numpy_random.seed(1))
    assert one != other


def test_torch_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    torch = types.ModuleType("torch")
    torch.manual_seed = seeds.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    reseed()
    reseed()
    one, other = seeds
    assert one != other
    assert max(seeds) < 1 << 63


def test_openssl_is_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []
    monkeypatch.setattr(ssl, "RAND_add", lambda data, _: given.append(data))
    reseed()
    assert [48] == [len(data) for data in given]


def test_a_time_based_uuid_has_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_generate_time_safe", "_node", "_last_timestamp"):
        monkeypatch.setattr(uuid, name, getattr(uuid, name))
    one, other = after_the_same_past(lambda: uuid.uuid1().node, lambda: None)
    assert one != other
    assert uuid.uuid1() != uuid.uuid1()
    assert uuid.getnode() >> 40 & 1


def test_names_of_temporary_files() -> None:
    random_names = tempfile._get_candidate_names()  # type: ignore[attr-defined]
    reseed()
    assert random_names is not tempfile._get_candidate_names()  # type: ignore[attr-defined]


def test_what_is_not_loaded_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy.random", raising=False)
    reseed()
    assert "numpy.random" not in sys.modules


def test_what_could_not_be_renewed_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    reseed()
    assert capfd.readouterr().err.startswith(
        "skylift: the randomness of torch was not renewed: AttributeError("
    )
