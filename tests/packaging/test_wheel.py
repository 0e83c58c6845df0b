"""What pip installs is one package, whole, and works away from the checkout."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.builders import an_image, write_manifest
from tests.packaging.environment import (
    ROOT,
    Environment,
    build_wheel,
    environment,
    installed_here,
    link_dependencies,
    metadata_of,
    tracked_files,
)

pytestmark = pytest.mark.slow

NOT_OURS = ("pipeline", "jobs", "schemas", "tools", "tests")
"""Top-level names of the checkout that other projects use too."""

RUN_ONLY = ("av", "huggingface_hub", "onnxruntime", "pypdfium2", "ray", "torch", "transformers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install phicorpus[run]`, as far as the dependencies are installed here."""
    return environment(tmp_path_factory.mktemp("whole"), wheel, installed_here())


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install phicorpus`: with what the wheel requires, and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    return environment(folder / "venv", wheel, [link_dependencies(folder / "packages", wheel)])


def test_the_wheel_installs_one_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        (record,) = (name for name in archive.namelist() if name.endswith("dist-info/RECORD"))
        recorded = archive.read(record).decode().splitlines()

    info = record.partition("/")[0]
    assert tops == {"phicorpus", info}
    assert {line.partition("/")[0] for line in recorded} == {"phicorpus", info}


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("phicorpus/")}

    assert packed == {name.removeprefix("pipeline/") for name in tracked_files("pipeline")}


def test_no_extra_is_needed_to_read_an_output_and_run_brings_what_runs_jobs(wheel: Path) -> None:
    required = metadata_of(wheel).requires or []

    light = {line for line in required if "extra ==" not in line}
    run = {line for line in required if 'extra == "run"' in line}
    assert not any(line.startswith(RUN_ONLY) for line in light)
    assert all(any(line.startswith(name) for line in run) for name in RUN_ONLY)


def test_the_entry_points_name_what_is_there(whole: Environment, tmp_path: Path) -> None:
    code = """
from importlib.metadata import entry_points
for group in ("console_scripts", "vllm.general_plugins"):
    (point,) = entry_points(group=group, name="phicorpus")
    print(point.load().__module__)
"""

    loaded = whole.run("python", "-c", code, cwd=tmp_path)

    assert loaded.stdout.split() == ["phicorpus.cli", "phicorpus.engine.vllm.plugin"]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which a job was run, beside packages of other projects."""

    folder: Path
    ended: list[dict[str, str | int]]


@pytest.fixture(scope="module")
def backfilled(whole: Environment, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A backfill of one day: `python -m phicorpus annotate`, a Ray of its own and its workers."""
    folder = tmp_path_factory.mktemp("place")
    for name in NOT_OURS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise ImportError('{name} is not ours')")
    for script in ("annotate.py", "backfill.py"):
        shutil.copyfile(ROOT / "jobs" / script, folder / "jobs" / script)
    (folder / "page.png").write_bytes(an_image("a page"))
    (folder / "2026-01-01").mkdir()
    write_manifest(folder / "2026-01-01/manifest.parquet", [{"uri": str(folder / "page.png")}])
    job = {
        "manifest": "manifest.parquet",
        "output": "output",
        "model": "tiny",
        "tasks": {"caption": {"max_new_tokens": 4}},
        "cluster": {"cpus_per_replica": 0.25},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    backfill = {
        "job": "job.yaml",
        "manifest": "{date}/manifest.parquet",
        "output": "output/{date}",
        "first": "2026-01-01",
        "last": "2026-01-01",
    }
    (folder / "backfill.yaml").write_text(yaml.safe_dump(backfill))
    run = whole.run("python", "jobs/backfill.py", "backfill.yaml", cwd=folder)
    return Place(folder, json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.ray
def test_a_job_runs_beside_packages_that_have_the_checkouts_names(
    whole: Environment, backfilled: Place
) -> None:
    arguments = ["job.yaml", "manifest=2026-01-01/manifest.parquet", "output=output/2026-01-01"]

    again = whole.run("python", "jobs/annotate.py", *arguments, cwd=backfilled.folder)
    standing = whole.run("phicorpus", "status", "output/2026-01-01", cwd=backfilled.folder)

    assert backfilled.ended == [{"day": "2026-01-01", "exit_code": 0}]
    assert json.loads(again.stdout)["status"] == "nothing_to_do"
    assert "caption" in standing.stdout


@pytest.mark.ray
def test_an_output_is_read_without_what_runs_jobs(light: Environment, backfilled: Place) -> None:
    folder, output = backfilled.folder, "output/2026-01-01"

    def answer(*arguments: str) -> str:
        return light.run("phicorpus", *arguments, cwd=folder).stdout

    assert json.loads(answer("status", output, "--json"))["tasks"]["caption"]["ok"] == 1
    assert json.loads(answer("verify", output, "--json"))["is_right"]
    assert [row["task"] for row in json.loads(answer("show", output, "--json"))] == ["caption"]
    report = light.run("phicorpus", "report", output, "-o", "report.html", cwd=folder)
    assert "no pictures: this needs" in report.stderr
    assert "phicorpus[run]" in report.stderr
    assert "caption" in (folder / "report.html").read_text("utf-8")


def test_what_a_job_needs_is_named_where_it_is_missing(light: Environment, tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "page.png"}])
    (tmp_path / "job.yaml").write_text(
        "{manifest: manifest.parquet, output: out, model: tiny, tasks: [ocr]}"
    )

    schema = light.run("phicorpus", "schema", "annotation", "--json", cwd=tmp_path)
    checked = light.run("phicorpus", "manifest", "check", "job.yaml", cwd=tmp_path)
    refused = [
        light.run("phicorpus", command, "job.yaml", cwd=tmp_path, check=False)
        for command in ("annotate", "plan")
    ]

    assert json.loads(schema.stdout)[0]["name"] == "asset_id"
    assert "1 assets, all right" in checked.stdout
    for ended in refused:
        assert ended.returncode == 2
        assert re.fullmatch(
            r"PackageMissing: this needs \w+, which is not installed: "
            r"pip install 'phicorpus\[run\]'\n",
            ended.stderr,
        )
