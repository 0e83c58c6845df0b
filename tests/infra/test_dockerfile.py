from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from phicorpus.doctor.accelerators import OLD_DRIVER_TORCH

ROOT = Path(__file__).parents[2]
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    """The Dockerfile's instructions, comments dropped and continued lines joined."""
    text = (ROOT / "infra/Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(keyword, " ".join(rest.split())) for keyword, rest in pairs]


def of_kind(instructions: list[Instruction], keyword: str) -> list[str]:
    return [rest for kind, rest in instructions if kind == keyword]


def pip_installs(instructions: list[Instruction]) -> list[list[str]]:
    commands = [part for run in of_kind(instructions, "RUN") for part in run.split("&&")]
    return [shlex.split(part)[2:] for part in commands if part.split()[:2] == ["pip", "install"]]


def requirements(arguments: list[str]) -> list[str]:
    valued = {"--constraint", "--extra-index-url"}
    pairs = zip(["", *arguments], arguments, strict=False)
    return [word for before, word in pairs if not word.startswith("-") and before not in valued]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_it_installs_torch_then_the_project_with_extras_then_its_code(
    instructions: list[Instruction],
) -> None:
    installs = [requirements(arguments) for arguments in pip_installs(instructions)]

    assert installs == [["torch"], [".[${EXTRAS}]", "ray[default]"], ["."]]


def test_every_download_is_held_to_the_constraints(instructions: list[Instruction]) -> None:
    *downloads, code = pip_installs(instructions)

    assert all(arguments[1:3] == ["--constraint", "constraints.txt"] for arguments in downloads)
    assert "--no-deps" in code
    assert all("--no-cache-dir" in arguments for arguments in [*downloads, code])


def test_the_extras_are_extras_of_the_project(instructions: list[Instruction]) -> None:
    arguments = dict(rest.split("=", 1) for rest in of_kind(instructions, "ARG"))

    extras = set(arguments["EXTRAS"].split(","))
    assert extras <= set(project()["optional-dependencies"])
    assert extras.isdisjoint({"dev", "flash"})  # flash-attn needs nvcc
    assert "run" in extras


def test_what_it_names_is_pinned() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))

    assert pinned["torch"] == "2.13.0"
    assert "ray" in pinned
    extras = project()["optional-dependencies"]
    dependencies = project()["dependencies"] + extras["run"]
    names = {re.split(r"[\[<>=;,~! ]", line)[0].lower() for line in dependencies}
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} <= normal


def test_the_python_of_the_image_is_one_that_the_project_supports(
    instructions: list[Instruction],
) -> None:
    arguments = dict(rest.split("=", 1) for rest in of_kind(instructions, "ARG"))
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", arguments["BASE_IMAGE"])

    assert version is not None
    assert project()["requires-python"] == ">=3.11"
    assert int(version[1]) >= 11


def test_it_copies_what_exists_and_dockerignore_lets_through(
    instructions: list[Instruction],
) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copies = [rest.split() for rest in of_kind(instructions, "COPY") if "--from" not in rest]
    sources = {source for copy in copies for source in copy[:-1]}

    assert lines[1] == "*"
    assert sources == allowed
    assert {source for source in sources - {"README.md"} if not (ROOT / source).exists()} == set()


def test_it_ends_as_a_user_that_is_not_root(instructions: list[Instruction]) -> None:
    kinds = [kind for kind, _ in instructions]
    user = of_kind(instructions, "USER")

    assert user == ["1000:1000"]
    assert {"RUN", "COPY", "ADD"}.isdisjoint(kinds[kinds.index("USER") :])
    assert of_kind(instructions, "ENTRYPOINT") == ['["tini", "--", "phicorpus"]']


def test_it_has_what_the_doctor_and_kuberay_ask_for(instructions: list[Instruction]) -> None:
    install = next(run for run in of_kind(instructions, "RUN") if "apt-get install" in run)

    packages = {word for word in install.split() if re.fullmatch(r"[a-z0-9+.-]+", word)}
    assert {
        "libreoffice-impress", "fonts-crosextra-carlito", "fonts-crosextra-caladea",
        "fonts-liberation", "fontconfig", "bubblewrap", "wget", "tini", "gcc", "libc6-dev",
    } <= packages  # fmt: skip
    assert "--no-install-recommends" in install
    assert "rm -rf /var/lib/apt/lists/*" in install


def test_a_torch_of_another_index_takes_the_place_of_pypis(instructions: list[Instruction]) -> None:
    *downloads, _ = pip_installs(instructions)

    for arguments in downloads:
        index = arguments[arguments.index("--extra-index-url") + 1]
        assert index == "${TORCH_INDEX_URL}"
    # Of an index's 2.13.0+cu126 and PyPI's 2.13.0 pip takes the former, which is the newer to it.
    assert Version("2.13.0+cu126") in SpecifierSet("==2.13.0")
    assert Version("2.13.0+cu126") > Version("2.13.0")


def test_the_variants_in_the_comments_are_those_that_the_doctor_and_the_readme_name() -> None:
    dockerfile, readme = (
        (ROOT / "infra" / name).read_text() for name in ("Dockerfile", "README.md")
    )
    (index,) = re.findall(r"https://download\.pytorch\.org/whl/cu\d+", OLD_DRIVER_TORCH)

    assert f"TORCH_INDEX_URL={index} " in dockerfile
    assert index in readme


def test_no_extra_but_its_own_needs_flash_attn() -> None:
    extras = project()["optional-dependencies"]

    assert [name for name, lines in extras.items() if "flash-attn" in " ".join(lines)] == ["flash"]
    assert extras["gpu"] == ["phicorpus[run]"]
