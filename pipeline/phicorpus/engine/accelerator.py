"""Check that a replica which was given a GPU can use it."""

from __future__ import annotations

import re
from pathlib import Path

from phicorpus.errors import ConfigError

_DRIVER = Path("/proc/driver/nvidia/version")


def check_accelerator(gpus: float) -> None:
    """Check that torch sees a GPU where Ray has given one; torch is imported here.

    Without this check the replica would run on the CPU, a hundred times slower, and hold the GPU.

    Args:
        gpus: What Ray has set aside for this process.

    Raises:
        ConfigError: torch sees none; names torch's build, the driver and the cure.
    """
    if not gpus:
        return
    import torch  # noqa: PLC0415  (in actors only)

    if torch.accelerator.current_accelerator(check_available=True) is None:
        raise ConfigError(unseen_gpu(torch.__version__, torch.version.cuda, driver_version()))


def unseen_gpu(torch_version: str, torch_cuda: str | None, driver: str | None) -> str:
    """Describe on one line why torch may see no GPU, and what to do.

    Args:
        torch_version: Of the package.
        torch_cuda: The CUDA version that it is built for; None: a build for CPUs.
        driver: Version of the NVIDIA driver; None where there is none.

    Example:
        >>> unseen_gpu("2.13.0+cu130", "13.0", "535.104.05").partition(":")[0]
        'this replica was given a GPU, and torch sees none'
    """
    build = f"built for CUDA {torch_cuda}" if torch_cuda else "a build for CPUs"
    there = f"NVIDIA driver {driver}" if driver else "no NVIDIA driver"
    cure = (
        "install a torch that the driver can run: pip install torch --index-url"
        " https://download.pytorch.org/whl/cu126 (drivers from 525 on)"
        if driver
        else "give this machine, or its container, the NVIDIA driver"
    )
    return (
        f"this replica was given a GPU, and torch sees none: torch {torch_version} is {build}, and"
        f" here is {there}. Either {cure}; or set cluster.gpus_per_replica to 0 to run on the CPU"
    )


def driver_version(path: Path = _DRIVER) -> str | None:
    """Read the version of the NVIDIA driver; None where none is loaded."""
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text.partition("\n")[0])
    return found.group() if found else "of an unknown version"
