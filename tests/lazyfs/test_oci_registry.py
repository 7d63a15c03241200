"""Pulling from registries that want a login, are busy, break off, send on, or send something else."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from oci_setup import Answer, Asked, FakeRegistry, PushedImage, PushedLayer, archive, digest_of, entry, index

from skylift.lazyfs import oci_http
from skylift.lazyfs.oci_auth import Challenge, challenges
from skylift.lazyfs.oci_errors import (
    OciCancelledError,
    OciContentError,
    OciDigestError,
    OciError,
    OciLoginError,
    OciNotFoundError,
    OciPlatformError,
    OciReferenceError,
    OciUnreachableError,
)
from skylift.lazyfs.oci_manifests import parse_platform
from skylift.lazyfs.oci_reference import parse_reference
from skylift.lazyfs.oci_registry import Registry

AMD64 = parse_platform("linux/amd64")
LAYER = PushedLayer.of(archive(entry("x", b"content" * 100_000)), "none")
IMAGE = PushedImage(LAYER, config={"Env": ["A=b"]})


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    registry.push("it", IMAGE, "1")
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_http, "_FIRST_WAIT", 0.001)


def opened(fake: FakeRegistry, name: str = "it:1", **options: object) -> Registry:
    return Registry(parse_reference(f"{fake.host}/{name}"), **options)  # type: ignore[arg-type]


def pulled(registry: Registry, folder: Path) -> bytes:
    """The one layer of the image."""
    _, manifest = registry.image(AMD64)
    registry.config(manifest, AMD64)
    registry.blob(manifest.layers[0], folder / "blob")
    return (folder / "blob").read_bytes()


def only(part: str, *answers: Answer | None) -> object:
    """For requests of such a path, these answers one after another, and then the usual ones."""
    left = list(answers)

    def before(asked: Asked) -> Answer | None:
        return left.pop(0) if part in asked.path and left else None

    return before


# --- what there is -----------------------------------------------------------------------------------


def test_an_image(fake: FakeRegistry, tmp_path: Path) -> None:
    registry = opened(fake)
    digest, manifest = registry.image(AMD64)
    assert digest == IMAGE.digest
    assert registry.config(manifest, AMD64).process.variables == {"A": "b"}
    told: list[int] = []
    registry.blob(manifest.layers[0], tmp_path / "blob", told.append)
    assert (tmp_path / "blob").read_bytes() == LAYER.blob
    assert sum(told) == len(LAYER.blob)
    assert all("authorization" not in asked.headers for asked in fake.asked)


@pytest.mark.parametrize("docker", [True, False])
def test_the_image_for_a_platform(fake: FakeRegistry, docker: bool) -> None:
    amd64 = PushedImage(LAYER, docker=docker)
    arm64 = PushedImage(LAYER, architecture="arm64", docker=docker)
    for image in (amd64, arm64):
        fake.push("both", image, image.architecture)
    fake.push_manifest("both", *index(arm64, amd64, docker=docker), "latest")
    registry = opened(fake, "both")
    assert registry.image(AMD64)[0] == amd64.digest
    assert registry.image(parse_platform("linux/arm64/v8"))[0] == arm64.digest
    with pytest.raises(OciPlatformError) as error:
        registry.image(parse_platform("linux/s390x"))
    assert str(error.value) == (
        f"{fake.host}/both:latest is not made for linux/s390x, only for linux/amd64, linux/arm64. Choose "
        "another image or tag, or a host with such a processor."
    )


def test_an_image_for_another_machine_without_an_index(fake: FakeRegistry) -> None:
    fake.push("arm", PushedImage(LAYER, architecture="arm64"), "latest")
    registry = opened(fake, "arm")
    _, manifest = registry.image(AMD64)
    with pytest.raises(OciPlatformError, match="arm:latest is not made for linux/amd64, only for linux/arm"):
        registry.config(manifest, AMD64)


def test_platforms() -> None:
    assert str(parse_platform("")).startswith("linux/")
    assert str(parse_platform("linux/arm/v7")) == "linux/arm/v7"
    with pytest.raises(OciPlatformError, match="'amd64' is no platform: write it as linux/amd64"):
        parse_platform("amd64")


def test_what_is_not_there(fake: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(OciNotFoundError) as error:
        opened(fake, "it:2").image(AMD64)
    assert str(error.value) == (
        f"{fake.host}/it:2: {fake.host}/it has no tag 2. Check its tags where it is published."
    )
    fake.before = only("/manifests/", Answer(404, body=b'{"errors": [{"code": "NAME_UNKNOWN"}]}'))  # type: ignore[assignment]
    with pytest.raises(OciNotFoundError, match=r"has no image none with tag latest\. Check the name\."):
        opened(fake, "none").image(AMD64)
    fake.before = lambda asked: Answer(404) if digest_of(LAYER.blob) in asked.path else None
    with pytest.raises(OciNotFoundError, match="has its manifest, but not a layer: a push of it broke off"):
        pulled(opened(fake), tmp_path)


@pytest.mark.parametrize(
    ("manifest", "media_type", "message"),
    [
        ({"schemaVersion": 1}, "", "is in a format of 2015 that is not read any more"),
        ({"schemaVersion": 2}, "", "its manifest cannot be read: Object missing required field `config`"),
        ({"config": {"digest": "md5:1", "size": 1}}, "", "names a part of it 'md5:1', which is no digest"),
        ({"manifests": []}, "", "is not made for linux/amd64, only for nothing that it names"),
        (
            {
                "config": {"digest": digest_of(b""), "size": 1},
                "layers": [
                    {"digest": digest_of(b""), "size": 1, "mediaType": "application/x.tar.gz+encrypted"}
                ],
            },
            "",
            "is encrypted, which cannot be unpacked here",
        ),
        ("<html>", "text/html; charset=utf-8", "answers with a web page: it is no registry"),
    ],
)
def test_what_is_no_image(fake: FakeRegistry, manifest: object, media_type: str, message: str) -> None:
    fake.push_manifest("odd", json.dumps(manifest).encode(), media_type, "latest")
    with pytest.raises(OciError) as error:
        opened(fake, "odd").image(AMD64)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{fake.host}/odd:latest")


def test_a_configuration_that_is_none(fake: FakeRegistry) -> None:
    chart = PushedImage(LAYER)
    chart.config = b'{"name": "chart"}'
    said = json.loads(chart.manifest)
    said["config"] = {
        "mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": digest_of(chart.config),
        "size": len(chart.config),
    }
    chart.manifest = json.dumps(said).encode()
    fake.push("chart", chart, "latest")
    registry = opened(fake, "chart")
    _, manifest = registry.image(AMD64)
    with pytest.raises(OciContentError, match=r"is not an image of containers \(application/vnd.cncf.helm"):
        registry.config(manifest, AMD64)


# --- what is not as it should be ---------------------------------------------------------------------


def test_another_digest(fake: FakeRegistry, tmp_path: Path) -> None:
    wrong = f"sha256:{'0' * 64}"
    fake.push_manifest("it", IMAGE.manifest, IMAGE.media_type, wrong)
    with pytest.raises(OciDigestError, match="its manifest has another digest than sha256:0000"):
        opened(fake, f"it@{wrong}").image(AMD64)
    bad = LAYER.blob[:-1] + b"!"
    fake.before = lambda asked: Answer(200, body=bad) if digest_of(LAYER.blob) in asked.path else None
    with pytest.raises(OciDigestError) as error:
        pulled(opened(fake), tmp_path)
    assert "a layer has another digest than" in str(error.value)
    assert "push it anew" in str(error.value)
    assert fake.count(digest_of(LAYER.blob)) == 2  # it could have been damaged on the way


def test_what_was_damaged_on_the_way_is_fetched_again(fake: FakeRegistry, tmp_path: Path) -> None:
    bad = Answer(200, body=LAYER.blob[:-1] + b"!")
    fake.before = only(digest_of(LAYER.blob), bad)  # type: ignore[assignment]
    assert pulled(opened(fake), tmp_path) == LAYER.blob


def test_more_than_there_should_be(fake: FakeRegistry, tmp_path: Path) -> None:
    much = Answer(200, body=LAYER.blob + b"!")
    fake.before = lambda asked: much if digest_of(LAYER.blob) in asked.path else None
    with pytest.raises(OciDigestError, match=f"sends more than the {len(LAYER.blob):,} bytes of sha256:"):
        pulled(opened(fake), tmp_path)
    fake.before = lambda asked: Answer(200, body=bytes(5 << 20)) if "manifests" in asked.path else None
    with pytest.raises(OciError, match="sends more than 4,194,304 bytes where few were expected"):
        opened(fake).image(AMD64)


# --- busy, broken off, sent on -------------------------------------------------------------------------


def test_what_may_pass_is_tried_again(fake: FakeRegistry, tmp_path: Path) -> None:
    later = [Answer(503), Answer(429, {"Retry-After": "0"}), Answer(500)]
    fake.before = only("/manifests/", *later)  # type: ignore[assignment]
    assert pulled(opened(fake), tmp_path) == LAYER.blob
    assert fake.count("/manifests/") == 4


def test_a_registry_that_stays_busy(fake: FakeRegistry) -> None:
    fake.before = lambda asked: Answer(502)
    with pytest.raises(OciUnreachableError) as error:
        opened(fake).image(AMD64)
    assert str(error.value) == (
        f"{fake.host}/it:1: {fake.host} does not answer: it answered 502 Bad Gateway. Check the name and "
        "this host's network (and HTTPS_PROXY), or try again later."
    )
    assert fake.count("/") == 6
    fake.before = lambda asked: Answer(429, {"Retry-After": "3600"})
    with pytest.raises(OciUnreachableError, match="429 Too Many Requests, and to come again in 3600 seconds"):
        opened(fake).image(AMD64)


def test_nobody_listens(fake: FakeRegistry) -> None:
    registry = opened(fake)
    fake.close()
    with pytest.raises(OciUnreachableError) as error:
        registry.image(AMD64)
    assert f"{fake.host} does not answer: " in str(error.value)
    assert "Connection refused" in str(error.value)
    assert "object at" not in str(error.value)
    fake.__init__()  # type: ignore[misc]  # so that the fixture has something to close


def test_a_layer_goes_on_where_the_connection_ended(fake: FakeRegistry, tmp_path: Path) -> None:
    def before(asked: Asked) -> Answer | None:
        if digest_of(LAYER.blob) not in asked.path:
            return None
        usual = fake.usual(asked)
        return usual._replace(cut=300_000) if len(usual.body) > 300_000 else None

    fake.before = before
    assert pulled(opened(fake), tmp_path) == LAYER.blob
    ranges = [asked.headers.get("range") for asked in fake.asked if digest_of(LAYER.blob) in asked.path]
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert len(ranges) == 3


def test_a_registry_without_ranges_begins_anew(fake: FakeRegistry, tmp_path: Path) -> None:
    whole = Answer(200, body=LAYER.blob)
    fake.before = only(digest_of(LAYER.blob), whole._replace(cut=1000), whole)  # type: ignore[assignment]
    assert pulled(opened(fake), tmp_path) == LAYER.blob


def test_a_layer_that_never_comes_whole(fake: FakeRegistry, tmp_path: Path) -> None:
    nothing = Answer(206, {"Content-Range": "bytes 1000-", "Content-Length": "5"}, b"", cut=0)

    def before(asked: Asked) -> Answer | None:
        if digest_of(LAYER.blob) not in asked.path:
            return None
        return nothing if "range" in asked.headers else fake.usual(asked)._replace(cut=1000)

    fake.before = before
    with pytest.raises(OciUnreachableError, match="the registry did not send a layer whole: "):
        pulled(opened(fake), tmp_path)


def test_a_login_does_not_go_where_a_request_is_sent_on(fake: FakeRegistry, tmp_path: Path) -> None:
    storage = FakeRegistry()
    try:
        path = f"/v2/it/blobs/{digest_of(LAYER.blob)}"
        storage.push("it", IMAGE, "1")

        def before(asked: Asked) -> Answer | None:
            if "authorization" not in asked.headers:
                return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
            place = f"http://{storage.host}{path}?signature=1"
            return Answer(307, {"Location": place}) if asked.path == path else None

        fake.before = before
        registry = opened(fake, username="me", password="secret")
        assert pulled(registry, tmp_path) == LAYER.blob
        sent_on = storage.asked[0]
        assert sent_on.query == "signature=1"
        assert "authorization" not in sent_on.headers
    finally:
        storage.close()


def test_it_is_not_sent_on_to_just_anywhere(fake: FakeRegistry) -> None:
    for place in (
        "http://example.org/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://169.254.169.254/",
    ):
        fake.before = lambda asked, place=place: Answer(302, {"Location": place})  # type: ignore[misc]
        with pytest.raises(OciUnreachableError) as error:
            opened(fake).image(AMD64)
        assert f"the registry sends on to {place}, which is not asked: only https:// is safe." in str(
            error.value
        )
    fake.before = lambda asked: Answer(302, {"Location": asked.path})
    with pytest.raises(OciUnreachableError, match="sends on again and again"):
        opened(fake).image(AMD64)


def test_only_this_machine_is_asked_without_tls() -> None:
    assert Registry(parse_reference("localhost:5000/x")).http.origin == "http://localhost:5000"
    assert Registry(parse_reference("x")).http.origin == "https://registry-1.docker.io"
    reference = parse_reference("registry.lan:5000/x")
    assert Registry(reference).http.origin == "https://registry.lan:5000"
    assert Registry(reference, plain_http=True).http.origin == "http://registry.lan:5000"


def test_a_proxy(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", f"http://{fake.host}")
    monkeypatch.setenv("no_proxy", "elsewhere.lan")
    reference = parse_reference("registry.lan:5000/it:1")
    assert pulled(Registry(reference, plain_http=True), tmp_path) == LAYER.blob
    assert {asked.host for asked in fake.asked} == {"registry.lan:5000"}
    fake.asked.clear()
    pulled(opened(fake), tmp_path)  # this machine is asked without it
    assert {asked.host for asked in fake.asked} == {fake.host}


def certificate(folder: Path) -> tuple[Path, Path]:
    """One for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    registry = FakeRegistry(context)
    try:
        registry.push("it", IMAGE, "1")
        with pytest.raises(OciUnreachableError) as error:
            opened(registry, plain_http=False).image(AMD64)
        said = f"{registry.host} has no certificate that this machine trusts: "
        assert said in str(error.value)
        assert registry.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert pulled(opened(registry, plain_http=False), tmp_path) == LAYER.blob
    finally:
        registry.close()


def test_it_can_be_cancelled(fake: FakeRegistry) -> None:
    cancelled = threading.Event()

    def before(asked: Asked) -> Answer:
        cancelled.set()
        return Answer(503, {"Retry-After": "20"})

    fake.before = before
    with pytest.raises(OciCancelledError, match=f"Pulling {fake.host}/it:1 was cancelled"):
        opened(fake, cancelled=cancelled).image(AMD64)


# --- logins --------------------------------------------------------------------------------------------


def with_tokens(fake: FakeRegistry, login: str = "") -> None:
    """It wants tokens, which it gives to who has the login (or to all)."""
    given = iter(range(1, 100))
    valid: set[str] = set()

    def before(asked: Asked) -> Answer | None:
        if asked.path == "/token":
            basic = f"Basic {base64.b64encode(login.encode()).decode()}"
            if login and asked.headers.get("authorization") != basic:
                return Answer(401)
            token = f"token{next(given)}"
            valid.clear()
            valid.add(f"Bearer {token}")
            return Answer(200, body=json.dumps({"access_token": token, "expires_in": 60}).encode())
        if asked.headers.get("authorization", "") not in valid:
            realm = f'Bearer realm="http://{fake.host}/token",service="reg, istry",scope="repository:it:pull"'
            return Answer(401, {"WWW-Authenticate": realm})
        if digest_of(LAYER.blob) in asked.path and "token1" in asked.headers["authorization"]:
            valid.clear()  # it has expired meanwhile
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{fake.host}/token"'})
        return None

    fake.before = before


def test_a_token_for_everybody(fake: FakeRegistry, tmp_path: Path) -> None:
    with_tokens(fake)
    assert pulled(opened(fake), tmp_path) == LAYER.blob
    first, second = (parse_qs(asked.query) for asked in fake.asked if asked.path == "/token")
    assert first == {"service": ["reg, istry"], "scope": ["repository:it:pull"]}
    assert second == {"scope": ["repository:it:pull"]}


def test_a_token_for_a_login(fake: FakeRegistry, tmp_path: Path) -> None:
    with_tokens(fake, "me:secret")
    assert pulled(opened(fake, username="me", password="secret"), tmp_path) == LAYER.blob
    with pytest.raises(OciLoginError) as error:
        opened(fake, username="me", password="wrong").image(AMD64)
    assert f"{fake.host} does not let me pull this image: the password is wrong, or" in str(error.value)
    assert "secret" not in str(error.value)
    with pytest.raises(OciLoginError) as error:
        opened(fake).image(AMD64)
    assert str(error.value) == (
        f"{fake.host}/it:1: {fake.host} has no such image, or wants a login for it. Check the name, or give "
        "Image.from_registry a secret with REGISTRY_USERNAME and REGISTRY_PASSWORD."
    )


def test_a_login_that_is_refused_all_the_same(fake: FakeRegistry) -> None:
    fake.before = lambda asked: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    with pytest.raises(OciLoginError):
        opened(fake, username="me", password="secret").image(AMD64)
    with pytest.raises(OciLoginError):
        opened(fake).image(AMD64)
    fake.before = lambda asked: Answer(403)
    with pytest.raises(OciLoginError):
        opened(fake, username="me", password="secret").image(AMD64)


def test_a_service_that_gives_no_token(fake: FakeRegistry) -> None:
    for answer, message in (
        (Answer(200, body=b"{}"), "sent none"),
        (Answer(200, body=b"<html>"), "sent none"),
        (Answer(200, body=b'{"token": "a\\r\\nHost: b"}'), "sent none"),
        (Answer(404), "answered 404"),
    ):

        def before(asked: Asked, answer: Answer = answer) -> Answer:
            realm = f'Bearer realm="http://{fake.host}/token"'
            return answer if asked.path == "/token" else Answer(401, {"WWW-Authenticate": realm})

        fake.before = before
        with pytest.raises(OciError, match=f"{fake.host}, which gives tokens for it, {message}"):
            opened(fake).image(AMD64)


def test_what_a_registry_offers() -> None:
    assert challenges('Basic realm="a b", Bearer realm="https://x/?a=\\"b",service=s , scope="p,q"') == [
        Challenge("basic", {"realm": "a b"}),
        Challenge("bearer", {"realm": 'https://x/?a="b', "service": "s", "scope": "p,q"}),
    ]
    assert challenges("") == []
    assert challenges("Negotiate, Basic realm=x") == [
        Challenge("negotiate", {}),
        Challenge("basic", {"realm": "x"}),
    ]


def test_a_reference_that_is_none() -> None:
    with pytest.raises(OciReferenceError):
        parse_reference("x y")
