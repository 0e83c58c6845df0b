"""Fresh environments with the built wheel, and with what is installed here for its dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with this project's wheel in it, away from the checkout."""

    folder: Path

    def run(
        self, program: str, *arguments: str, cwd: Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; with `check` its exit code has to be 0."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "RAY_"))}
        ended = subprocess.run(  # noqa: S603 - our own program
            [str(self.folder / "bin" / program), *arguments],
            cwd=cwd,
            env=kept,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or ended.returncode == 0, ended.stderr
        return ended


def tracked_files(under: str = ".") -> list[str]:
    """Return the files of the checkout that git knows; of an unpacked archive, all."""
    if not (ROOT / ".git").exists():
        found = (path.relative_to(ROOT) for path in (ROOT / under).rglob("*") if path.is_file())
        return [
            path.as_posix()
            for path in found
            if not any(part[0] == "." or part == "__pycache__" for part in path.parts)
            and not any(part.endswith(".egg-info") for part in path.parts)
        ]
    git = shutil.which("git")
    assert git is not None
    listed = subprocess.run(  # noqa: S603 - git
        [git, "-C", str(ROOT), "ls-files", "-z", under], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the tracked files, without a download."""
    source = folder / "source"
    for name in tracked_files():
        if not name.startswith(("benchmarks/", "tests/goldens/", "tests/fixtures/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments: str) -> None:
    """Run pip, and hold it to what is here."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--no-index"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert ended.returncode == 0, ended.stdout + ended.stderr


def environment(folder: Path, wheel: Path, packages: Sequence[Path]) -> Environment:
    """Make an environment with the wheel; its dependencies are found in `packages`."""
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python")
    pip("--python", python, "install", "--no-deps", "--no-compile", str(wheel))
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # Folders of a .pth come after site-packages, and their own .pth files, such as one of an
    # editable installation, are not read.
    (site_packages / "dependencies.pth").write_text("\n".join(map(str, packages)) + "\n")
    return Environment(folder)


def installed_here() -> list[Path]:
    """Return the folders of this environment's packages."""
    names = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    names |= {path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}}
    return [Path(name) for name in sorted(names)]


def link_dependencies(folder: Path, wheel: Path) -> Path:
    """Fill a folder with links to what the wheel requires, to what that requires, and no more."""
    folder.mkdir()
    for found in _requirements_of(metadata_of(wheel)):
        for path in {file.parts[0] for file in found.files or ()}:
            if path not in {"..", "__pycache__"} and not (folder / path).exists():
                (folder / path).symlink_to(str(found.locate_file(path)))
    return folder


def metadata_of(wheel: Path) -> Distribution:
    """Read what a wheel says of itself."""
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    return PathDistribution(info)  # pyright: ignore[reportArgumentType]  # as its documentation does


def _requirements_of(project: Distribution) -> Iterator[Distribution]:
    """Find what a distribution requires, directly or not, as it is installed here."""
    seen: set[tuple[str, str]] = set()
    todo = [(project, "")]
    while todo:
        requiring, extra = todo.pop()
        for requirement in map(Requirement, requiring.requires or ()):
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            found = distribution(requirement.name)
            if (found.name, "") not in seen:
                yield found
            wanted = {(found.name, extra) for extra in ("", *requirement.extras)}
            todo += [(found, extra) for _, extra in wanted - seen]
            seen |= wanted
