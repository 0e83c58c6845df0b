"""The package with a recipe of CONTRIBUTING.md applied, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "pipeline/phicorpus"


def a_package(
    folder: Path,
    *,
    added: Mapping[str, Path],
    edited: Mapping[str, Iterable[tuple[str, str]]],
) -> Path:
    """Lay out a folder to import phicorpus from: of links, but for what a recipe changes.

    Args:
        folder: Where to.
        added: New files, by their paths in the package.
        edited: By file: a text that it has once, and what is written behind it.
    """
    copy = folder / "phicorpus"
    own = {copy / name for name in (*added, *edited)}
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
    for parent in {
        parent for path in own for parent in path.parents if copy in (parent, *parent.parents)
    }:
        for source in (SOURCE / parent.relative_to(copy)).iterdir():
            target = parent / source.name
            if source.name != "__pycache__" and target not in own and not target.exists():
                target.symlink_to(source)
    for name, file in added.items():
        (copy / name).write_text(file.read_text("utf-8"), "utf-8")
    for name, edits in edited.items():
        text = (SOURCE / name).read_text("utf-8")
        for place, addition in edits:
            assert text.count(place) == 1, f"{name}: {place!r} is there {text.count(place)} times"
            text = text.replace(place, place + addition)
        (copy / name).write_text(text, "utf-8")
    return folder


def run_in(package: Path, folder: Path, *arguments: str) -> str:
    """Run Python on that package; what it prints."""
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
