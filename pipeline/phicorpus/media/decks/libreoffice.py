"""Turn office decks into PDF with LibreOffice: headless, without network, in a killable child.

LibreOffice's exit code says nothing (it is 0 for files that could not be loaded), so a deck is done
when its whole PDF is there; `deck.py` then compares pages and text with the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from phicorpus.config import DeckConfig
from phicorpus.errors import (
    LimitExceeded,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SandboxTimeout,
    SegmentError,
)
from phicorpus.media.media_types import ODP, PPT, PPTX
from phicorpus.media.sandbox import Limits, run_command

INSTALL: Final = (
    "install LibreOffice: apt-get install libreoffice-impress, or "
    "brew install --cask libreoffice; or set decks.render: native"
)

_MAC_PATH = Path("/Applications/LibreOffice.app/Contents/MacOS/soffice")
_SUFFIXES: Mapping[str, str] = {PPTX: ".pptx", PPT: ".ppt", ODP: ".odp"}
_FOLDER_PREFIX = "phicorpus-render-"
_LOCK_NAME = ".owner"
_NEW_S = 60.0
_PER_DECK_RATIO = 1 / 8  # of decks.render_timeout_s, beside once that for the whole run
_PROFILE_PATH = Path(__file__).with_name("libreoffice.xcu")

# Hidden slides are left out by default, and then page numbers are not slide numbers.
_OPTIONS = ("ExportHiddenSlides",)
# A PPT is loaded once: its PDF brings the deck along as an ODP, which can be read ("hybrid PDF").
_PPT_OPTIONS = (*_OPTIONS, "IsAddStream")

_PROGRAM_FOLDERS = ("/usr/bin", "/bin")  # its launcher is a shell script
_CONVERTERS = ("convert", "magick", "gs", "gswin32c", "pstoedit", "rsvg-convert", "inkscape")

# What LibreOffice needs of the system, and all that it sees of it under bwrap: no one's files.
_SYSTEM_PATHS = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt"),
    *("/etc/fonts", "/etc/libreoffice", "/etc/alternatives", "/etc/ld.so.cache"),
    "/var/cache/fontconfig",
)

_ISOLATIONS: Mapping[str, tuple[str, ...]] = {
    "bwrap": (
        *("bwrap", "--unshare-all", "--die-with-parent", "--dev", "/dev", "--proc", "/proc"),
        *("--tmpfs", "/tmp"),  # noqa: S108 - of its own mounts
        *(argument for path in _SYSTEM_PATHS for argument in ("--ro-bind-try", path, path)),
    ),
    "unshare -rn": ("unshare", "-rn"),
    "unshare -n": ("unshare", "-n"),
    "none": (),
}


def find_soffice() -> Path | None:
    """Find LibreOffice on the PATH or as macOS' application; None where it is not installed."""
    for name in ("soffice", "libreoffice"):
        found = shutil.which(name)
        if found:
            return Path(found)
    return _MAC_PATH if _MAC_PATH.exists() else None


@cache
def isolation() -> str:
    """Return the best way that works here to cut LibreOffice off from the network.

    One of "bwrap" (no network, and no files but the system's and its own), "unshare -rn" or
    "unshare -n" (no network), and "none": in unprivileged containers, and on macOS. PPTX and ODP
    are safe with any of them, since `package.check` writes them anew without what they would fetch;
    links in a binary PPT are not cut; none was seen to be followed.
    """
    for name, prefix in _ISOLATIONS.items():
        if not prefix or _works(prefix):
            return name
    return "none"


def render(decks: Sequence[tuple[str, bytes]], config: DeckConfig) -> list[bytes | SegmentError]:
    """Convert decks to PDF, all of them in one run of LibreOffice; `hybrid_pdf.deck` is in a PPT's.

    A run that hangs, crashes or skips decks is repeated without the culprit, so that every deck
    is judged on its own.

    Args:
        decks: Media type and content of each; PPTX and ODP have passed `package.check`.
        config: Limits: `render_timeout_s` for a run, and `max_memory_bytes`.

    Returns:
        For each deck its PDF or its error: RendererMissing, RenderError, SandboxTimeout,
        SandboxCrashed, or LimitExceeded for memory.
    """
    soffice = find_soffice()
    if soffice is None:
        return [RendererMissing(f"LibreOffice is not installed; {INSTALL}") for _ in decks]
    results: list[bytes | SegmentError] = [RenderError("not rendered") for _ in decks]
    runs = deque([list(range(len(decks)))])
    while runs:
        run = runs.popleft()
        if not run:
            continue
        pdfs, failure = _convert(soffice, [decks[index] for index in run], config)
        missing = [index for index, pdf in zip(run, pdfs, strict=True) if pdf is None]
        for index, pdf in zip(run, pdfs, strict=True):
            if pdf is not None:
                results[index] = pdf
        if len(run) == 1 and missing:
            results[run[0]] = failure
        elif missing and isinstance(failure, RenderError):  # it ended by itself, and skipped some
            runs.extend([index] for index in missing)
        elif missing:  # it was at the first one when it hung or died
            runs.extend([missing[:1], missing[1:]])
    return results


def _convert(
    soffice: Path, decks: Sequence[tuple[str, bytes]], config: DeckConfig
) -> tuple[list[bytes | None], SegmentError]:
    """Run LibreOffice once; give the PDFs that are whole, and why others would be missing."""
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder, _owned(Path(folder)):
        root = Path(folder).resolve()
        for name in ("in", "out", "home", "shut", "profile/user"):
            (root / name).mkdir(parents=True)
        shutil.copyfile(_PROFILE_PATH, root / "profile/user/registrymodifications.xcu")
        inputs = [root / "in" / f"{n}{_SUFFIXES[kind]}" for n, (kind, _) in enumerate(decks)]
        for path, (_, content) in zip(inputs, decks, strict=True):
            path.write_bytes(content)
        options = _PPT_OPTIONS if PPT in {kind for kind, _ in decks} else _OPTIONS
        arguments = [*_arguments(root, options), *map(str, inputs)]
        failure: SegmentError
        try:
            result = run_command(
                [*_prefix(root, soffice), str(soffice), *arguments],
                Limits(
                    timeout_s=config.render_timeout_s * (1 + _PER_DECK_RATIO * len(decks)),
                    max_memory_bytes=config.max_memory_bytes,
                ),
                cwd=root,
                environment=_environment(root),
            )
            failure = RenderError(f"LibreOffice wrote no PDF: {result.output[-300:]}")
        except (SandboxTimeout, SandboxCrashed, LimitExceeded) as error:
            failure = type(error)(f"LibreOffice: {error}")
        return [_whole_pdf(root / "out" / f"{path.stem}.pdf") for path in inputs], failure


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold a lock in a folder; the system lets go of it when this process ends, however it ends."""
    with (folder / _LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def sweep(parent: Path) -> int:
    """Remove the folders that killed workers of this user have left, once per process.

    Returns:
        How many there were.
    """
    num_removed = 0
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        try:
            found = folder.lstat()
            is_new = time.time() - found.st_mtime < _NEW_S  # its owner may be about to lock it
            if is_new or found.st_uid != os.getuid() or folder.is_symlink():
                continue
            with (folder / _LOCK_NAME).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                num_removed += 1
        except OSError:  # locked, or somebody else is removing it
            continue
    return num_removed


def _arguments(root: Path, options: Sequence[str]) -> list[str]:
    switched_on = json.dumps({name: {"type": "boolean", "value": "true"} for name in options})
    # All options stand before the file names: behind them they are ignored without a word.
    return [
        f"-env:UserInstallation={(root / 'profile').as_uri()}",
        "--headless",
        "--norestore",
        "--nolockcheck",
        "--nodefault",
        "--nologo",
        "--convert-to",
        f"pdf:impress_pdf_Export:{switched_on}",
        "--outdir",
        str(root / "out"),
    ]


def _environment(root: Path) -> dict[str, str]:
    """Make the child's environment: nothing of this process, and no program that it could start.

    LibreOffice gives EPS pictures to whichever of these converters the PATH has.
    """
    shut = root / "shut"
    for name in _CONVERTERS:
        program = shut / name
        if not program.exists():
            program.write_text("#!/bin/sh\nexit 1\n")
            program.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(shut), *_PROGRAM_FOLDERS]),
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "home"),
        "LANG": "C.UTF-8",
        "SAL_USE_VCLPLUGIN": "svp",
    }


def _prefix(root: Path, soffice: Path) -> tuple[str, ...]:
    prefix = _ISOLATIONS[isolation()]
    if prefix:  # its own PATH is a shorter one
        prefix = (shutil.which(prefix[0]) or prefix[0], *prefix[1:])
    if isolation() != "bwrap":
        return prefix
    program = soffice.resolve().parent
    if not any(program.is_relative_to(path) for path in _SYSTEM_PATHS):
        install = program.parent if program.name == "program" else program
        prefix = (*prefix, "--ro-bind", str(install), str(install))
    return (*prefix, "--bind", str(root), str(root))


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        probe = subprocess.run(  # noqa: S603 - one of the constants above
            [*prefix, "true"], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def _whole_pdf(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    whole = content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    return content if whole else None
