"""The versions that pyproject.toml takes, and those that the tests ran with."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.environment import ROOT


def required() -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name, whatever the extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def pinned(name: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text("utf-8"), re.M)
    return {canonicalize_name(package): Version(version) for package, version in lines}


@pytest.mark.parametrize(
    "name", ["constraints.txt", "constraints-vllm.txt", "constraints-oldest.txt"]
)
def test_what_the_tests_ran_with_is_what_pip_may_take(name: str) -> None:
    wanted = required()

    refused = [
        f"{package} {version}"
        for package, version in pinned(name).items()
        if package in wanted and version not in wanted[package].specifier
    ]

    assert refused == []


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_pip_may_take() -> None:
    wanted = required()

    floors = {
        package: next(s.version for s in wanted[package].specifier if s.operator == ">=")
        for package in pinned("constraints-oldest.txt")
    }

    assert {p: Version(v) for p, v in floors.items()} == {
        package: Version(f"{version.major}.{version.minor}")
        for package, version in pinned("constraints-oldest.txt").items()
    }


def test_the_engines_contract_is_tested_on_both_ends_of_transformers() -> None:
    (ends,) = re.findall(r"^TRANSFORMERS_ENDS := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    first, last = map(Version, ends.split())
    bounds = {s.operator: Version(s.version) for s in required()["transformers"].specifier}

    assert first == bounds[">="]
    assert (last.major, last.minor + 1) == (bounds["<"].major, bounds["<"].minor)
