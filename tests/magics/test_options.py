from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.exceptions import InvalidError
from skylift.magics.options import CellOptions, mebibytes, parse_line, seconds
from skylift.wire import GpuRequest


def refusal(line: str) -> str:
    with pytest.raises(InvalidError) as caught:
        parse_line(line)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("H100", (GpuRequest(model="H100"),)),
        ("h100", (GpuRequest(model="H100"),)),
        ("H100:8", (GpuRequest(model="H100", count=8),)),
        ("H100!", (GpuRequest(model="H100", exact=True),)),
        ("any", (GpuRequest(model="any"),)),
        ("H100,A100-80GB", (GpuRequest(model="H100"), GpuRequest(model="A100-80GB"))),
        ("H100, L40S", (GpuRequest(model="H100"), GpuRequest(model="L40S"))),
        ("cpu", ()),
        ("CPU --cpu 2", ()),
        ("", None),
        ("--name train", None),
    ],
)
def test_gpus(line: str, expected: tuple[GpuRequest, ...] | None) -> None:
    assert expected == parse_line(line).gpus


def test_every_option() -> None:
    line = (
        "H100 --cpu 4 --memory 32 --timeout 2h --idle 5m --idle-policy Stop --name train --image img "
        "--env A=1 --env 'B=two words' --detach --dry-run"
    )
    expected = CellOptions(
        gpus=(GpuRequest(model="H100"),),
        cpu=4.0,
        memory=32 * 1024,
        timeout=7200.0,
        idle=300.0,
        idle_policy="stop",
        name="train",
        image="img",
        env={"A": "1", "B": "two words"},
        detach=True,
        dry_run=True,
    )
    assert expected == parse_line(line)


def test_options_may_stand_before_the_gpu_and_take_an_equals_sign() -> None:
    assert parse_line("--cpu=2 H100 --name=a") == parse_line("H100 --cpu 2 --name a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), ("1h30m", 5400.0), ("2d", 172800.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert expected == seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("32", 32768), ("32G", 32768), ("32GiB", 32768), ("512M", 512), ("1T", 1048576)]
)
def test_sizes(text: str, expected: int) -> None:
    assert expected == mebibytes(text)


@pytest.mark.parametrize("text", ["", "soon", "5x", "-3", "0", "1h!"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as 90s, 5m, 2h or 1h30m, above 0"):
        seconds(text)


def test_an_unknown_gpu_names_the_nearest() -> None:
    assert "unknown GPU 'H10'; did you mean H100" in refusal("H10")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("H100 --nam x", "%%gpu: unknown option --nam; did you mean --name"),
        ("H100 --regoin eu", "did you mean --region"),
        ("H100 --cpu", "%%gpu: --cpu needs a value: cores to reserve"),
        ("H100 --cpu many", "%%gpu: --cpu 'many': it takes a number of cores such as 2 or 0.5, above 0"),
        ("H100 --memory 0", "%%gpu: --memory '0': it takes a size such as 32 (GiB), 32G or 512M, above 0"),
        ("H100 --timeout soon", "%%gpu: --timeout 'soon': it takes a duration"),
        ("H100 --name a --name b", "%%gpu: --name is there twice"),
        ("H100 --name a/b", "%%gpu: --name 'a/b': it takes letters, digits, dots, dashes and underscores"),
        ("H100 --image a.b", "%%gpu: --image 'a.b': it takes the name of a variable that holds an Image"),
        ("H100 --env A", "%%gpu: --env 'A': it takes NAME=value"),
        ("H100 --volume data", "%%gpu: --volume 'data': it takes NAME:/PATH, such as data:/data, with :ro"),
        ("H100 --volume a/b:/data", "it takes NAME:/PATH"),
        ("H100 --volume data:/data:no", "it takes NAME:/PATH"),
        ("H100 --volume data:/tmp", "a volume cannot be mounted at /tmp, which containers need"),
        ("H100 --volume a:/x --volume b:/x/", "two volumes at /x"),
        ("H100 --volume a:/x --volume b:/x/y", "/x/y is in /x, where another volume is mounted"),
        ("H100 --detach=yes", "%%gpu: --detach takes no value"),
        ("H100 A100-80GB", "are written with commas: %%gpu H100,A100-80GB"),
        ("H100,cpu", "%%gpu H100,cpu: cpu stands alone"),
        ("H100 --name 'a", "%%gpu H100 --name 'a: No closing quotation"),
        ("H100,,L4", "no GPU is named"),
    ],
)
def test_what_is_wrong_is_named(line: str, expected: str) -> None:
    assert expected in refusal(line)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--cloud aws", "clouds are not built yet"),
        ("--region eu", "clouds are not built yet"),
        ("--on-demand", "clouds are not built yet"),
        ("--secret hf", "secrets are not built yet: --env passes an environment variable"),
        ("--max-cost 5", "limits on cost are not built yet: --timeout limits the time"),
    ],
)
def test_what_is_not_built_yet_is_refused_by_name(option: str, expected: str) -> None:
    assert f"%%gpu: {option.split()[0]}: {expected}" in refusal(f"H100 {option}")


def test_volumes() -> None:
    options = parse_line("H100 --volume data:/data --volume=models:/mnt/models/:ro")
    assert {"/data": ("data", False), "/mnt/models": ("models", True)} == options.volumes


@settings(deadline=None)
@given(st.text(alphabet="H100A, -=:!'\"cpu\\nametdx", max_size=30))
def test_any_line_is_understood_or_refused(line: str) -> None:
    with contextlib.suppress(InvalidError):
        assert isinstance(parse_line(line), CellOptions)
