"""``skylift …``, and scripts that it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift.cli import main
from skylift.http import Http

SCRIPT = """
import skylift

app = skylift.App("script")

@app.function()
def square(x: int):
    return x * x

@app.local_entrypoint()
def report(x: int, name: str = "nobody", scale: float = 1.0, loud: bool = False):
    print(name, square.remote(x) * scale, loud)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "report_script.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "report_script", raising=False)
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["version"])
    assert f"skylift {skylift.__version__}\n" == capsys.readouterr().out


def test_a_local_entrypoint_with_its_parameters(
    gateway: FakeGateway, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["run", str(script), "--x", "3", "--scale", "0.5", "--loud"])
    assert "nobody 4.5 True\n" == capsys.readouterr().out


def test_a_function_runs_remotely(
    gateway: FakeGateway, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["run", f"{script}::square", "--x", "4"])
    assert "16\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing.py", "skylift: there is no file nothing.py"),
        ("{script}::other", "has no 'other'; it has square, report"),
    ],
)
def test_wrong_targets(script: Path, capsys: pytest.CaptureFixture[str], target: str, message: str) -> None:
    assert 1 == main(["run", target.format(script=script)])
    assert message in capsys.readouterr().err


def test_missing_parameters(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(script)])
    assert "the following arguments are required: --x" in capsys.readouterr().err


def test_the_token_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKYLIFT_HOME", str(tmp_path))
    assert 1 == main(["token"])
    assert f"{tmp_path / 'token'} is made when the gateway first starts" in capsys.readouterr().err


def test_garbage_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"deleted": 3, "freed": 2_500_000, "used": 7, "young": 1, "left": 2, "reason": "time was over"}
    asked: list[object] = []

    def post(_http: Http, path: str, _timeout: float, body: object = None) -> object:
        asked.append((path, body))
        return answer

    monkeypatch.setattr(Http, "post", post)
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SKYLIFT_TOKEN", "t")
    assert 0 == main(["store", "collect", "--dry-run"])
    assert [("/v1/store/collect", {"dry_run": True})] == asked
    assert (
        "3 blobs (2.5 MB) would be deleted, 7 are needed, 1 are not but are younger than a day\n"
        "2 are left: time was over\n"
    ) == capsys.readouterr().out
