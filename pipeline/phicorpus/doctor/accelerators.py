"""torch, the GPU that it sees or why it sees none, and what its kernels are built with."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from phicorpus.doctor.finding import Finding, Install
from phicorpus.doctor.machine import Machine

# By CUDA's major version, of which all minor ones run: NVIDIA's "CUDA Compatibility", table 1.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# PyTorch has built for CUDA 12.6 up to 2.14 (pytorch/pytorch#190385).
OLD_DRIVER_TORCH = "pip install 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126"
_GPU_TORCH = "pip uninstall --yes torch && pip install 'phicorpus[gpu]'"
_DRIVER_VERSION = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_COMPILERS = ("gcc", "clang", "cc")  # in the order in which Triton looks for them


def accelerators(machine: Machine) -> Iterator[Finding]:
    """Look for torch, a device that it sees, the driver, and what GPU kernels need."""
    device = machine.torch_device()
    has_cuda = str(device).startswith("cuda")  # kernels are for NVIDIA's GPUs, not for Apple's
    drivers = (machine.output(_DRIVER_VERSION) or "").split()
    driver = drivers[0] if drivers else None
    yield _torch(machine, loads=device is not None)
    yield Finding(
        name="NVIDIA driver",
        level="optional",
        ok=driver is not None,
        found=driver or "not found, by nvidia-smi",
        stops_working="NVIDIA GPUs",
        install=Install(debian="NVIDIA's driver, 580 or newer for the torch that PyPI has"),
    )
    yield _gpu(machine, device, driver)
    yield from _kernels(machine, has_cuda=has_cuda)


def why_no_gpu(cuda: str | None, driver: str | None) -> tuple[str, str | None]:
    """Return why torch sees no GPU, and the line that mends it; None where there is none.

    Args:
        cuda: Version of CUDA that torch is built for; None: another build, such as for CPUs.
        driver: Version of NVIDIA's driver; None: there is none.

    Example:
        >>> why_no_gpu("13.0", "535.104.05")[0]
        "NVIDIA's driver is 535.104.05, and torch, built for CUDA 13.0, needs 580 or newer"
    """
    if driver is None:
        return "none that torch sees: models run on the CPU", None
    if cuda is None:
        return f"torch is built without CUDA, and NVIDIA's driver {driver} is here", _GPU_TORCH
    oldest = _OLDEST_DRIVER.get(_major(cuda))
    if oldest is not None and _major(driver) < oldest:
        wrong = f"NVIDIA's driver is {driver}, and torch, built for CUDA {cuda}, needs"
        return f"{wrong} {oldest} or newer", f"a driver of {oldest} or newer, or {OLD_DRIVER_TORCH}"
    wrong = f"torch, built for CUDA {cuda}, sees none, though NVIDIA's driver {driver} fits"
    return wrong, "unset CUDA_VISIBLE_DEVICES; docker run --gpus all; on Kubernetes nvidia.com/gpu"


def _torch(machine: Machine, *, loads: bool) -> Finding:
    version, cuda = machine.version("torch"), machine.torch_cuda()
    line = "pip install 'phicorpus[run]'"
    built = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    return Finding(
        name="torch",
        level="required",
        ok=loads,
        found=f"{version or 'present'}, {built}" if loads else "not found, or does not load",
        stops_working="every model",
        install=Install(debian=line, macos=line),
    )


def _gpu(machine: Machine, device: str | None, driver: str | None) -> Finding:
    broken = bool(device) and str(device).startswith("broken")
    ok = bool(device) and not broken
    why, cure = why_no_gpu(machine.torch_cuda(), driver)
    return Finding(
        name="GPU",
        level="optional" if driver is None else "useful",
        ok=ok,
        found=str(device) if ok else f"{device}; {why}" if broken else why,
        stops_working="speed: the full Phi-4-multimodal wants a GPU of 24 GB or more, or of 12 "
        "with model.quantization; the small demonstration model runs anywhere",
        install=Install(
            debian=cure or "an NVIDIA driver, and torch built for CUDA (pytorch.org/get-started)"
        ),
    )


def _kernels(machine: Machine, *, has_cuda: bool) -> Iterator[Finding]:
    """Look for Triton, the compiler that it calls, and flash-attn."""
    triton = machine.version("triton")
    yield Finding(
        name="Triton",
        level="useful" if has_cuda else "optional",
        ok=triton is not None,
        found=triton or "not found",
        stops_working="speed on an NVIDIA GPU: kernels of this project's own",
        install=Install(debian=f"comes with torch built for CUDA: {_GPU_TORCH}"),
    )
    compiler = next((path for name in _COMPILERS if (path := machine.which(name))), None)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    has_header = machine.is_file(str(header))
    yield Finding(
        name="C compiler",
        level="useful" if has_cuda else "optional",
        ok=compiler is not None and has_header,
        found=", ".join((compiler or "not found", *(() if has_header else (f"no {header}",)))),
        stops_working="Triton's kernels: it builds their launchers when they are first called",
        install=Install(
            debian="apt-get install gcc libc6-dev python3-dev", macos="xcode-select --install"
        ),
    )
    flash = machine.version("flash_attn")
    yield Finding(
        name="flash-attn",
        level="optional",
        ok=flash is not None,
        found=flash or "not found",
        stops_working="model.attention: flash. The default, auto, uses torch's own kernels",
        install=Install(
            debian="pip install 'phicorpus[gpu]' ninja packaging wheel && pip install"
            " --no-build-isolation 'phicorpus[flash]' (needs nvcc of torch's CUDA, and an hour)"
        ),
    )


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdigit() else 0
