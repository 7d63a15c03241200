"""Dockerfiles: what steps become of them, and what is said of what cannot be done."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skylift.dockerfile import parse_dockerfile
from skylift.dockerfile_lines import read_instructions
from skylift.dockerfile_words import OfBase, WordError, expand, from_template, joined, template
from skylift.exceptions import InvalidError
from skylift.local_files import LocalFile
from skylift.wire.images import (
    AddFiles,
    Configure,
    CopyFrom,
    FromDebian,
    FromRegistry,
    FromScratch,
    ImageStep,
    RunCommands,
)

_FROM = "Dockerfile, line 1: FROM: "
_MACHINE = "images are those of the host's machine"


class Packed:
    """What was to be packed, instead of packing it."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.modes: dict[str, int | None] = {}

    def __call__(self, files: Sequence[LocalFile], *, target: str, label: str) -> AddFiles:
        for file in files:
            path = f"{target.rstrip('/')}/{file.path}"
            assert path not in self.files
            self.modes[path] = file.mode
            if file.content is not None:
                self.files[path] = file.content.decode()
            else:
                assert file.source is not None
                if file.source.is_symlink():
                    self.files[path] = f"-> {file.source.readlink()}"
                else:
                    self.files[path] = "/" if file.source.is_dir() else file.source.read_text()
        return AddFiles(target=target, archives=(), label=label)


def parse(text: str, context: Path | None = None, **options: object) -> tuple[ImageStep, ...]:
    return parse_dockerfile(text, context=context, add_files=Packed(), **options)  # type: ignore[arg-type]


def refused(text: str, context: Path | None = None, **options: object) -> str:
    with pytest.raises(InvalidError) as error:
        parse(text, context, **options)
    return str(error.value)


def copied(text: str, context: Path | None = None) -> dict[str, str]:
    packed = Packed()
    parse_dockerfile(f"FROM scratch\n{text}", context=context, add_files=packed)
    return packed.files


def env_of(text: str, **options: object) -> dict[str, str]:
    env: dict[str, str] = {}
    for step in parse(f"FROM scratch\n{text}", **options):
        if isinstance(step, Configure):
            env |= step.env
    return env


def commands(text: str, **options: object) -> list[str]:
    return [step.commands[0] for step in parse(text, **options) if isinstance(step, RunCommands)]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    (folder / "src" / "main.py").write_text("main")
    (folder / "src" / "deep" / "x.log").write_text("x")
    (folder / "src" / "link").symlink_to("main.py")
    return folder


# --- whole files -----------------------------------------------------------------------------------


def test_an_ordinary_file(context: Path) -> None:
    steps = parse(
        """
# syntax=docker/dockerfile:1
ARG VERSION=3.11
FROM python:${VERSION}-slim
LABEL maintainer="me"
ENV PYTHONUNBUFFERED=1 \\
    # a comment between
    MODE="a b"
WORKDIR /app
COPY a.txt .
RUN pip install \\
    --no-cache-dir numpy
EXPOSE 80
CMD ["python", "-m", "app"]
""",
        context,
    )
    assert steps == (
        FromRegistry(reference="python:3.11-slim", label="FROM python:3.11-slim"),
        Configure(env={"PYTHONUNBUFFERED": "1", "MODE": "a b"}, label='ENV PYTHONUNBUFFERED=1 MODE="a b"'),
        AddFiles(target="/app", archives=(), label="WORKDIR /app"),
        Configure(workdir="/app", label="WORKDIR /app"),
        AddFiles(target="/app", archives=(), label="COPY a.txt ."),
        RunCommands(
            commands=("pip install     --no-cache-dir numpy",), label="RUN pip install --no-cache-dir numpy"
        ),
        Configure(cmd=("python", "-m", "app"), label='CMD ["python", "-m", "app"]'),
    )


def test_stages_that_are_needed_are_read_and_no_others() -> None:
    text = """
FROM golang AS Build
RUN make
FROM debian AS unused
USER nobody
FROM build AS more
RUN again
FROM scratch
COPY --from=build /out/app /usr/bin/
COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /bin/uv
COPY --from=2 /x /y
"""
    first = FromRegistry(reference="golang", label="FROM golang")
    make = RunCommands(commands=("make",), label="RUN make")
    scratch, out, uv, by_number = parse(text)
    assert isinstance(scratch, FromScratch)
    assert isinstance(out, CopyFrom)
    assert (out.image.steps, out.source, out.target) == ((first, make), "/out/app", "/usr/bin/")
    assert isinstance(uv, CopyFrom)
    assert uv.image.steps == (
        FromRegistry(reference="ghcr.io/astral-sh/uv:0.5", label="FROM ghcr.io/astral-sh/uv:0.5"),
    )
    assert uv.target == "/bin/uv"
    assert isinstance(by_number, CopyFrom)
    assert by_number.image.steps[-1] == RunCommands(commands=("again",), label="RUN again")
    assert parse(text, target="build") == (first, make)
    assert "line 5: USER: nobody is not supported" in refused(text, target="unused")


def test_a_target_that_is_no_stage() -> None:
    message = refused("FROM a AS one\nFROM b AS two", target="three")
    assert message == "Dockerfile has no stage 'three'; its stages are one, two"


def test_a_stage_that_comes_later() -> None:
    assert refused("FROM a\nCOPY --from=later /x /y\nFROM b AS later", target="0") == (
        "Dockerfile, line 2: COPY: --from=later is no stage before this one"
    )


def test_credentials_and_python_are_for_what_it_begins_with() -> None:
    base, other, *_ = parse(
        "FROM a AS x\nFROM x\nCOPY --from=b /x /y", username="me", password="secret", add_python="3.12"
    )
    assert base == FromRegistry(
        reference="a", label="FROM a", username="me", password="secret", add_python="3.12"
    )
    assert isinstance(other, CopyFrom)
    assert other.image.steps == (
        FromRegistry(reference="b", label="FROM b", username="me", password="secret"),
    )
    assert refused("FROM scratch", add_python="3.12") == (
        "Dockerfile begins with scratch, to which no Python can be added"
    )


def test_on_top_of_an_image() -> None:
    base: tuple[ImageStep, ...] = (
        FromDebian(python="3.11"),
        Configure(env={"HOME": "/root"}, workdir="/work", shell=("/bin/bash", "-c")),
    )
    steps = parse("WORKDIR sub\nENV A=$HOME/x\nCMD run it", base=base)
    assert steps[:2] == base
    assert steps[2] == AddFiles(target="/work/sub", archives=(), label="WORKDIR sub")
    assert isinstance(steps[3], Configure)
    assert (steps[3].env, steps[3].workdir, steps[3].cmd) == (
        {"A": "/root/x"},
        "/work/sub",
        ("/bin/bash", "-c", "run it"),
    )
    assert refused("RUN a\nFROM b", base=base) == (
        "Dockerfile, line 2: FROM: these commands go on top of an image, and have no FROM of their own"
    )


# --- commands --------------------------------------------------------------------------------------


def test_forms_of_run() -> None:
    assert commands('FROM a\nRUN ["echo", "a b"]\nRUN [ -e /x ] && y') == ["echo 'a b'", "[ -e /x ] && y"]
    assert commands("FROM a\nRUN --mount=type=cache,target=/root/.cache --network=default make") == ["make"]
    assert commands("FROM a\nrun echo $HOME ${x:-y} 'it''s' # no comment") == [
        "echo $HOME ${x:-y} 'it''s' # no comment"
    ]


def test_a_list_of_words_is_run_whatever_the_shell_is() -> None:
    steps = parse('FROM a\nSHELL ["/bin/bash", "-ec"]\nRUN ["x"]\nRUN y\nENTRYPOINT z')
    assert [(type(step).__name__, getattr(step, "shell", None)) for step in steps[1:]] == [
        ("Configure", ("/bin/sh", "-c")),
        ("RunCommands", None),
        ("Configure", ("/bin/bash", "-ec")),
        ("RunCommands", None),
        ("Configure", None),
    ]
    assert steps[-1] == Configure(entrypoint=("/bin/bash", "-ec", "z"), cmd=(), label="ENTRYPOINT z")


def test_here_documents() -> None:
    text = """FROM a
RUN <<EOF
set -e
echo $HOME
EOF
RUN cat <<-'END' >/x && echo done
\tbody
\tEND
RUN <<EOF
#!/usr/bin/env python3
print("hi")
EOF
RUN echo $((1<<2)) <<<x
"""
    whole, passed, script, no_document = commands(text)
    assert whole == "set -e\necho $HOME\n"
    assert passed == "cat <<-'END' >/x && echo done\n\tbody\n\tEND"
    assert '#!/usr/bin/env python3\nprint("hi")\n' in script
    assert no_document == "echo $((1<<2)) <<<x"
    assert refused("FROM a\nRUN <<EOF\nx") == (
        "Dockerfile, line 2: RUN: <<EOF has no end: a line with nothing but EOF"
    )


def test_an_entry_point_forgets_the_command_of_the_base() -> None:
    assert parse('FROM a\nENTRYPOINT ["x"]')[1] == Configure(
        entrypoint=("x",), cmd=(), label='ENTRYPOINT ["x"]'
    )
    last = parse('FROM a\nCMD ["y"]\nENTRYPOINT ["x"]')[-1]
    assert isinstance(last, Configure)
    assert (last.entrypoint, last.cmd) == (("x",), ("y",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --mount=type=secret,id=x cmd", "use Image.run_commands(..., secrets=[...])"),
        ("RUN --mount=type=bind,target=. cmd", "COPY what the command needs"),
        ("RUN --network=none cmd", "--network=none is not supported, only default"),
        ("RUN --nothing cmd", "--nothing is not known"),
        ("RUN", "has no command"),
        ("ONBUILD RUN x", "is not supported"),
        ("USER app", "app is not supported: in a container all runs as root"),
        ("SHELL /bin/sh", 'is written SHELL ["/bin/bash", "-c"]'),
        ("RUM x", "is not known. Known are FROM, RUN"),
        ("ENV", "is written ENV NAME=VALUE"),
        ("ENV A", "A has no value; write ENV A=VALUE"),
        ("ENV A=1 B", "B has no value"),
        ("ENV 1A=2", "'1A' cannot be the name of a variable"),
        ("ENV A='b", "a ' without its end"),
        ("ENV A=${b", "without its }"),
        ("ENV A=${b#c}", "only :-, :+, :?, -, + and ? can be used"),
        ("ARG", "is written ARG NAME"),
        ("WORKDIR $nowhere", "$nowhere is set neither by ENV nor by ARG here"),
        ("ENV A=${B:-c}", "whether $B is set is known only to the base image"),
        ("COPY x", "is written COPY SOURCE... TARGET"),
        ("COPY x /y", "there is no context to copy from"),
        ("COPY --chown=app x /y", "--chown=app is not supported: files belong to root"),
        ("COPY --chmod=u+x x /y", "write a number, as --chmod=755"),
        ("COPY --parents x /y", "--parents is not supported"),
        ("COPY --from=z --chmod=755 /x /y", "RUN chmod afterwards"),
        ("COPY a b /y", "the target is a folder: write /y/"),
        ("ADD https://example.org/x /y", "RUN curl -fsSLO https://example.org/x"),
        ("CMD --x y", "--x is not known here"),
    ],
)
def test_what_is_refused_is_named_with_its_line(line: str, message: str) -> None:
    said = refused(f"FROM a\n\n{line}\n")
    word = re.split(r"\s", line)[0]
    assert said.startswith(f"Dockerfile, line 3: {word}: ")
    assert message in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Dockerfile has no FROM: it must say what the image begins with"),
        ("RUN x\nFROM a", "Dockerfile, line 1: RUN: before the first FROM there can only be ARG"),
        ("FROM a b", "Dockerfile, line 1: FROM: is written FROM IMAGE or FROM IMAGE AS NAME"),
        ("FROM $A", "Dockerfile, line 1: FROM: $A is empty; give an ARG before FROM a default"),
        (
            "FROM a AS 1x",
            "Dockerfile, line 1: FROM: '1x' cannot be the name of a stage: letters, digits, . _ -",
        ),
        ("FROM --platform=linux/s390x a", f"{_FROM}--platform=linux/s390x is not supported: {_MACHINE}"),
        ("# escape=x\nFROM a", "Dockerfile, line 1: escape is \\ or `, not 'x'"),
    ],
)
def test_what_is_wrong_with_a_whole_file(text: str, message: str) -> None:
    assert refused(text) == message


def test_what_has_no_effect_is_passed_over() -> None:
    steps = parse(
        "FROM --platform=$BUILDPLATFORM a\nLABEL a=b\nEXPOSE 80\nMAINTAINER me\nSTOPSIGNAL 9\n"
        "HEALTHCHECK --interval=5s CMD x\nVOLUME /data\nUSER root\nUSER 0:0"
    )
    assert steps == (FromRegistry(reference="a", label="FROM a"),)


# --- variables -------------------------------------------------------------------------------------


def test_arguments_of_a_build() -> None:
    text = "ARG V=1\nFROM a:$V\nARG V\nARG W=w$V\nARG NOT_GIVEN\nRUN x\nENV W=other\nRUN y"
    first, x, _, y = parse(text, build_args={"V": "2"})
    assert isinstance(first, FromRegistry)
    assert first.reference == "a:2"
    assert isinstance(x, RunCommands)
    assert x.env == {"V": "2", "W": "w2"}
    assert isinstance(y, RunCommands)
    assert y.env == {"V": "2"}
    assert refused(text, build_args={"X": "1"}) == (
        "Dockerfile has no ARG X, which build_args gives; its ARGs: NOT_GIVEN, V, W"
    )


def test_an_argument_before_from_is_no_variable_after_it() -> None:
    assert env_of("ENV A=${V:-none}") == {"A": "none"}
    steps = parse("ARG V=1\nFROM scratch\nENV A=<$V>")
    assert steps[1] == Configure(env={"A": "<>"}, label="ENV A=<$V>")


def test_a_proxy_needs_no_arg() -> None:
    steps = parse("FROM a\nRUN x", build_args={"https_proxy": "http://proxy"})
    assert isinstance(steps[1], RunCommands)
    assert steps[1].env == {"https_proxy": "http://proxy"}


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("ENV A=b\\ c D='e $A' F=\"g $A\"", {"A": "b c", "D": "e $A", "F": "g "}),
        ("ENV A=1\nENV A=2 B=$A", {"A": "2", "B": "1"}),
        ("ENV A b  c", {"A": "b  c"}),
        ("ENV A=x\nENV B=${A:+y}${C:-z}${A}${C+no}\\$A", {"A": "x", "B": "yzx$A"}),
        ("ENV A=\nENV B=${A:-empty}${A-set}${A+there}", {"A": "", "B": "emptythere"}),
        ("ENV A=${N:-${M:-deep}}", {"A": "deep"}),
        ('ENV A="x\\"y" B=$', {"A": 'x"y', "B": "$"}),
    ],
)
def test_words(text: str, env: dict[str, str]) -> None:
    assert env_of(text) == env


def test_the_escape_can_be_another() -> None:
    steps = parse("# escape=`\nFROM scratch\nENV A=b` c `\n  D=C:\\x")
    assert isinstance(steps[1], Configure)
    assert steps[1].env == {"A": "b c", "D": "C:\\x"}


def test_a_required_variable() -> None:
    assert refused('FROM scratch\nENV A="${B:?say which}"') == "Dockerfile, line 2: ENV: say which"


def test_what_only_the_base_knows_is_left_to_the_host() -> None:
    steps = parse("FROM a\nENV PATH=/x:$PATH M='$5'\nENV PATH=/y:$PATH\nENV Q=$M")
    assert steps[1:] == (
        Configure(env={"PATH": "/x:${PATH}", "M": "$$5"}, expand=True, label="ENV PATH=/x:$PATH M='$5'"),
        Configure(env={"PATH": "/y:${PATH}"}, expand=True, label="ENV PATH=/y:$PATH"),
        Configure(env={"Q": "$5"}, label="ENV Q=$M"),
    )
    assert "is known only in ENV and RUN" in refused("FROM a\nENV A=$B\nWORKDIR $A")


@given(
    st.lists(
        st.text() | st.builds(OfBase, st.from_regex(r"[A-Za-z_]\w{0,5}", fullmatch=True).filter(str.isascii))
    )
)
def test_a_template_says_what_it_was_made_of(pieces: list[str | OfBase]) -> None:
    assert from_template(template(tuple(pieces))) == joined(pieces)


@given(st.text())
def test_a_quoted_word_is_itself(text: str) -> None:
    single = "'" + text.replace("'", "'\\''") + "'"
    assert expand(single, lambda name: None, "\\") == joined([text])
    double = '"' + re.sub(r'(["$\\])', r"\\\1", text) + '"'
    assert expand(double, lambda name: None, "\\") == joined([text])


@given(st.text(alphabet="ab$\\{}:-+?'\"` \n<E#="))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(WordError):
        expand(text, lambda name: ("v",) if name == "a" else None, "\\")
    for file in (f"FROM scratch\n{word} {text}\nE" for word in ("ENV", "RUN", "COPY", "ARG")):
        with contextlib.suppress(InvalidError):
            parse(file)


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1))
def test_continued_lines_are_one(words: list[str]) -> None:
    text = "RUN " + " \\\n".join(words)
    assert read_instructions(text, "x").all[0].rest.split() == words


# --- files -----------------------------------------------------------------------------------------


def test_what_is_copied_where(context: Path) -> None:
    assert copied("COPY a.txt /x/y", context) == {"/x/y": "a"}
    assert copied("COPY a.txt /x/", context) == {"/x/a.txt": "a"}
    assert copied("WORKDIR /w\nCOPY a.txt .", context) == {"/w/a.txt": "a"}
    assert copied("WORKDIR /w\nCOPY a.txt /w", context) == {"/w/a.txt": "a"}
    assert copied("WORKDIR /w\nCOPY a.txt z", context) == {"/w/z": "a"}
    assert copied("COPY a.txt /usr/local/bin", context) == {"/usr/local/bin/a.txt": "a"}
    assert copied("COPY *.txt /x/", context) == {"/x/a.txt": "a", "/x/b.txt": "b"}
    assert copied('COPY ["a.txt", "b.txt", "/x y/"]', context) == {"/x y/a.txt": "a", "/x y/b.txt": "b"}
    assert copied("COPY [ab].tx? /x/", context) == {"/x/a.txt": "a", "/x/b.txt": "b"}


def test_of_a_folder_the_content_is_copied(context: Path) -> None:
    content = {"/x/deep": "/", "/x/deep/x.log": "x", "/x/main.py": "main", "/x/link": "-> main.py"}
    assert copied("COPY src /x", context) == content
    assert copied("COPY ./src/ /x/", context) == content
    assert set(copied("COPY . .", context)) == {
        *("/a.txt", "/b.txt", "/empty", "/src", "/src/deep", "/src/deep/x.log", "/src/main.py", "/src/link")
    }


def test_where_the_base_knows_the_folder_paths_stay_relative(context: Path) -> None:
    packed = Packed()
    parse_dockerfile("FROM a\nCOPY a.txt .\nCOPY b.txt sub/c", context=context, add_files=packed)
    assert packed.files == {"./a.txt": "a", "sub/c": "b"}
    packed = Packed()
    text = "FROM a\nWORKDIR sub\nWORKDIR deep\nCOPY a.txt .\nWORKDIR /abs\nCOPY b.txt c"
    steps = parse_dockerfile(text, context=context, add_files=packed)
    assert packed.files == {"./a.txt": "a", "/abs/c": "b"}
    assert [step.workdir for step in steps if isinstance(step, Configure)] == ["sub", "deep", "/abs"]


def test_modes_and_flags(context: Path) -> None:
    packed = Packed()
    text = "FROM scratch\nCOPY --chmod=755 --chown=root:root --link a.txt /x\nADD b.txt /y"
    parse_dockerfile(text, context=context, add_files=packed)
    assert packed.modes == {"/x": 0o755, "/y": None}


def test_text_in_the_file_is_copied() -> None:
    text = "ENV A=1\nCOPY <<one <<'two' /x/\n$A\none\n$A\ntwo\nCOPY <<EOF /etc/conf\na\nEOF"
    assert copied(text) == {"/x/one": "1\n", "/x/two": "$A\n", "/etc/conf": "a\n"}


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ("*.txt\n", {"empty", "src", "src/deep", "src/deep/x.log", "src/link", "src/main.py"}),
        ("# comment\n**/*.log\nempty/\n", {"a.txt", "b.txt", "src", "src/deep", "src/link", "src/main.py"}),
        ("*\n!src/main.py", {"src/main.py"}),
        ("src\n!src/deep\n", {"a.txt", "b.txt", "empty", "src/deep", "src/deep/x.log"}),
        ("/src/**\n[ab].txt", {"empty", "src"}),
    ],
)
def test_what_a_dockerignore_leaves_out(context: Path, ignore: str, left: set[str]) -> None:
    (context / ".dockerignore").write_text(ignore)
    assert set(copied("COPY . /", context)) - {"/.dockerignore"} == {f"/{path}" for path in left}


def test_a_dockerignore_of_its_own(context: Path) -> None:
    (context / ".dockerignore").write_text("a.txt")
    (context / "Dockerfile.dockerignore").write_text("*\n!a.txt")
    assert copied("COPY . /", context) == {"/a.txt": "a"}


def test_what_cannot_be_copied(context: Path, tmp_path: Path) -> None:
    (context / ".dockerignore").write_text("b.txt")
    (tmp_path / "outside").write_text("no")
    (context / "out").symlink_to("../outside")
    (context / "nowhere").symlink_to("missing")
    with tarfile.open(context / "x.tar.gz", "w:gz") as archive:
        archive.add(context / "a.txt", "a.txt")
    where = "Dockerfile, line 2: COPY: "

    def said(line: str) -> str:
        return refused(f"FROM scratch\n{line}", context)

    assert said("COPY none /x") == f"{where}{context} has no none"
    assert said("COPY b.txt /x") == f"{where}b.txt is left out by {context}/.dockerignore"
    assert said("COPY ../outside /x") == f"{where}../outside is outside of the context {context}"
    assert said("COPY out /x") == f"{where}out leads to {tmp_path}/outside, outside of the context {context}"
    assert said("COPY nowhere /x") == f"{where}nowhere is a link that leads nowhere"
    assert said("COPY *.t* /x") == f"{where}*.t* is several files, so the target is a folder: write /x/"
    assert said("COPY [z-a] /x").startswith(f"{where}[z-a] is no pattern: ")
    assert "is an archive, which is not unpacked here: COPY it, then RUN tar -xf" in said("ADD x.tar.gz /x/")
    assert refused("FROM scratch\nCOPY a /b", tmp_path / "none") == (
        f"{where}the context {tmp_path}/none is not a folder"
    )
