"""References to images, as docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skylift.lazyfs.oci_errors import OciReferenceError
from skylift.lazyfs.oci_reference import Reference, is_loopback, parse_reference

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "whole", "host"),
    [
        ("debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
        ("debian:12", "docker.io/library/debian:12", "registry-1.docker.io"),
        ("me/it:V1.0_x-y", "docker.io/me/it:V1.0_x-y", "registry-1.docker.io"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
        ("docker.io/me/it", "docker.io/me/it:latest", "registry-1.docker.io"),
        ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x", "ghcr.io"),
        ("localhost/x", "localhost/x:latest", "localhost"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}", "registry-1.docker.io"),
        (f"q.io/x:1@{DIGEST}", f"q.io/x:1@{DIGEST}", "q.io"),
        (" a__b/c-d--e.f \n", "docker.io/a__b/c-d--e.f:latest", "registry-1.docker.io"),
    ],
)
def test_what_a_reference_means(text: str, whole: str, host: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == whole
    assert reference.host == host
    assert parse_reference(whole) == reference


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' cannot be the name of one, as debian or ghcr.io/owner/name:tag is."),
        ("Debian", "as debian or ghcr.io/owner/name:tag is. Names of images have small letters only."),
        ("a//b", "'a//b' cannot be the name of one"),
        ("a/../b", "'a/../b' cannot be the name of one"),
        ("x:", "'' is no tag."),
        ("x:a b", "'a b' is no tag."),
        ("x@sha256:1", "'sha256:1' is no digest (sha256:…)."),
        ("https://ghcr.io/x", "write it without https://."),
        ("-x.io/y", "'-x.io' is no registry."),
        ("a" * 256, "cannot be the name of one"),
    ],
)
def test_what_is_none(text: str, problem: str) -> None:
    with pytest.raises(OciReferenceError) as error:
        parse_reference(text)
    assert str(error.value).startswith(f"{text!r} is no reference to an image: ")
    assert problem in str(error.value)


_parts = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?", fullmatch=True)


@given(
    st.builds(
        Reference,
        st.sampled_from(["docker.io", "localhost:5000", "example.org"]),
        st.lists(_parts, min_size=2, max_size=4).map("/".join),
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        st.sampled_from(["", DIGEST]),
    )
)
def test_a_whole_reference_means_itself(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text())
def test_any_text_is_a_reference_or_none(text: str) -> None:
    try:
        reference = parse_reference(text)
    except OciReferenceError:
        return
    assert parse_reference(str(reference)) == reference


def test_what_is_this_machine() -> None:
    assert all(map(is_loopback, ["localhost", "localhost:1", "127.0.0.1:5", "127.9.9.9", "[::1]:5", "[::1]"]))
    assert not any(map(is_loopback, ["", "localhost.example.org", "128.0.0.1", "10.0.0.1:5", "[::2]", "[x"]))
