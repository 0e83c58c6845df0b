"""`benchmarks/gpu/run.sh`, rehearsed on the CPU where little more than torch is installed."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu.parts import parts

# Each part is a Python that imports torch: on a busy machine that alone takes long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
# A GPU machine without network has none of these, and Ray is too large to be carried there.
MISSING = (
    "ray", "av", "obstore", "pypdfium2", "pptx", "jsonschema", "duckdb", "polars",
    "moto", "reportlab", "s3fs", "pillow_heif", "importlinter", "onnxruntime", "aiohttp",
)  # fmt: skip
MAIN_PARTS = ("environment", "kernels", "engine tests", "steps", "engine ocr")
SITE = """
import sys
from importlib.machinery import PathFinder


class Fewer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {missing!r}
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Fewer
"""


def test_the_main_parts_run_where_only_their_packages_are(tmp_path: Path) -> None:
    ended = rehearse(tmp_path, ",".join(MAIN_PARTS), missing=MISSING)

    summary = (tmp_path / "output/summary.txt").read_text("utf-8")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith(f"{summary}all ended well\n")
    assert len(summary) <= 12_000
    for text in ("missing: nothing", "decode 4 x 32", "pages/s", "roofline", "tests collected"):
        assert text in summary
    with tarfile.open(tmp_path / "output/results.tar.gz") as packed:
        names = {name.removeprefix("results/") for name in packed.getnames()}
        kept = packed.extractfile("results/parts.json")
        assert kept is not None
        statuses = {name: how["exit_status"] for name, how in json.load(kept)["parts"].items()}
    assert statuses == dict.fromkeys(MAIN_PARTS, 0)
    assert {"environment.json", "steps.json", "engine.ocr.json", "engine_ocr.log"} <= names


def test_no_part_imports_what_is_not_there(tmp_path: Path) -> None:
    modules = {part.module[0] for part in parts(tmp_path, rehearse=True, work=tmp_path).values()}
    modules -= {"pytest"}

    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", f"import {', '.join(sorted(modules))}"],
        cwd=ROOT,
        env=without(MISSING, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert "benchmarks.gpu.full_size" in modules
    assert ended.returncode == 0, ended.stderr


def test_a_part_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    ended = rehearse(tmp_path, "environment,engine tests", missing=(*MISSING, "soxr"))

    assert ended.returncode == 1
    assert ended.stdout.endswith("not ended well: environment\n")
    assert "missing: soxr" in ended.stdout
    assert "engine tests: ok" in ended.stdout


def rehearse(
    folder: Path, only: str, *, missing: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run the script on what it needs of this project, and without some packages."""
    project = folder / "project"
    project.mkdir()
    for name in ("benchmarks", "pipeline", "tests", "pyproject.toml"):
        (project / name).symlink_to(ROOT / name)
    options = ["--rehearse", "--only", only, "--minutes", "15"]
    folders = ["--output", folder / "output", "--work", folder / "work"]
    return subprocess.run(  # noqa: S603 - our own program
        ["bash", project / "benchmarks/gpu/run.sh", *options, *folders],  # noqa: S607
        env={
            **without(missing, folder),
            "PYTHON": sys.executable,
            "WHEELS": str(folder / "none"),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def without(missing: Sequence[str], folder: Path) -> dict[str, str]:
    """Return an environment in which Python does not find some packages."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(missing=set(missing)), "utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "pipeline")))}
