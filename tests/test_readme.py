"""What README and its neighbours name exists, and the numbers are those of the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from phicorpus import cli, errors
from phicorpus.cli import checks, outputs, run
from phicorpus.config import RunConfig
from phicorpus.driver.signals import EXIT_SIGINT, EXIT_SIGTERM

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "infra/README.md")
FOLDERS = "benchmarks|docs|infra|jobs|pipeline|schemas|tests|tools"


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = text_of(page)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    code = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)`", text)

    gone = [path for path in links if not any((ROOT / page).parent.glob(path))]
    gone += [path for path in code if not any(ROOT.glob(path.rstrip("/")))]

    assert gone == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_is_one(page: str) -> None:
    text = text_of(page)
    blocks = "\n".join(re.findall(r"```bash\n(.+?)```", text, re.DOTALL))
    lines = re.findall(r"`phicorpus ([^`]+)`", text)
    lines += re.findall(r"^phicorpus (.+)$", blocks, re.MULTILINE)
    words = [line.replace("--log-json ", "").split()[0] for line in lines]
    known = {command.name for command in cli.app.registered_commands} | {"manifest", "--version"}
    targets = re.findall(r"`make ([\w-]+)`", text)
    targets += re.findall(r"^make (\w+)", blocks, re.MULTILINE)
    made = re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE)

    assert {*words} <= known
    assert {*targets} <= {*made}


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_names_is_one(page: str) -> None:
    named = re.findall(r"`(\w+)\.(\w+)(?::[^`]*)?`", text_of(page))
    sections = {
        name: field.annotation
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }

    unknown = [
        f"{section}.{name}"
        for section, name in named
        if section in sections and name not in sections[section].model_fields
    ]

    assert len(sections) > 6
    assert unknown == []


def test_the_table_of_exit_codes_has_every_code_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+(?:, \d+)*) \| ", text_of("README.md"), re.MULTILINE)
    bad_runs = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, errors.PhicorpusError)
        and "exit_code" in vars(error)
    }
    own = {0, checks.EXIT_DIFFERS, checks.EXIT_BROKEN, outputs.EXIT_NOT_RIGHT}
    own |= {run.EXIT_ERRORS_ABOVE_THRESHOLD, EXIT_SIGINT, EXIT_SIGTERM}

    assert {int(code) for row in rows for code in row.split(", ")} == bad_runs | own


def test_the_kills_and_the_requests_are_those_of_the_results() -> None:
    text = " ".join(text_of("README.md").split())
    soaks = [json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("chaos*")]
    alone = json.loads(text_of("benchmarks/results/batch_equals_alone.json"))
    kinds = [kind for kind in alone.values() if isinstance(kind, dict)]

    kills, runs = (sum(soak[name] for soak in soaks) for name in ("num_kills", "num_runs"))
    assert f"{kills} kills over {runs} runs, 0 rows lost, 0 twice, 0 torn" in text
    assert {(s["rows_lost"], s["rows_twice"], s["files_torn"]) for s in soaks} == {(0, 0, 0)}
    assert f"{sum(kind['requests'] for kind in kinds)} requests of mixed kinds" in text
    assert all(kind["identical"] == kind["requests"] for kind in kinds)


def test_the_cost_of_fetching_is_that_of_the_results() -> None:
    table = re.findall(
        r"^\| ([\w ]+) \| (\d+) \| (\d+) \|", text_of("benchmarks/results/objects.md"), re.M
    )
    microseconds = {client: int(cpu) for client, _, cpu in table}
    text = " ".join(text_of("README.md").split())

    assert f"{microseconds['the fetch stage']} µs of CPU per object" in text
    assert f"s3fs alone took {microseconds['s3fs cat']:,}" in text
