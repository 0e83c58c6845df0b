"""The questions that probes ask of a machine. Each answers; none raises, none changes anything."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

GIB = 1024**3
_PROBE_TIMEOUT_S = 30
_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "/Applications/LibreOffice.app/Contents/Resources/fonts/truetype",
)


def _output(command: Sequence[str]) -> str | None:
    """Run a program; its output, or None where it is absent, fails or hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - commands of this file only, no shell
            command,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(module: str) -> str | None:
    """Return an installed module's version without importing it; None where it is absent."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "present"


def _torch_cuda() -> str | None:
    """Return the version of CUDA that torch is built for; None where torch does not load too."""
    try:
        import torch  # noqa: PLC0415 - heavy
    except (ImportError, OSError):
        return None
    return torch.version.cuda


def _torch_device() -> str | None:
    """Name the accelerator that torch sees; "" for none, None where torch does not load."""
    try:
        import torch  # noqa: PLC0415 - heavy
    except (ImportError, OSError):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an old driver: `why_no_gpu` says it with the cure
            has_cuda = torch.cuda.is_available()
        if has_cuda:
            num, memory_bytes = torch.cuda.device_count(), torch.cuda.mem_get_info(0)[1]
            name = torch.cuda.get_device_name(0)
            return f"cuda: {num} x {name}, {memory_bytes / GIB:.0f} GiB"
        if torch.backends.mps.is_available():
            return "mps: Apple GPU"
    except RuntimeError as error:
        return f"broken: {error}"
    return "npu: torch_npu is installed" if _version("torch_npu") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The questions that probes ask; a test answers them by its own functions."""

    is_macos: bool = sys.platform == "darwin"
    which: Callable[[str], str | None] = shutil.which
    output: Callable[[Sequence[str]], str | None] = _output
    version: Callable[[str], str | None] = _version
    torch_device: Callable[[], str | None] = _torch_device
    torch_cuda: Callable[[], str | None] = _torch_cuda
    is_file: Callable[[str], bool] = os.path.isfile
    font_folders: Sequence[str] = _FONT_FOLDERS
    temporary_folder: str = field(default_factory=tempfile.gettempdir)
    shared_folder: str = "/dev/shm"  # noqa: S108 - looked at, not written
    control_group: str = "/sys/fs/cgroup"
