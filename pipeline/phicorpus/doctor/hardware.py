"""Memory, processors and disks, as this process may use them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from phicorpus.doctor.finding import Finding, Install
from phicorpus.doctor.machine import GIB, Machine

_MIN_MEMORY_BYTES = 4 * GIB
_MIN_SHARED_BYTES = 1 * GIB
_MIN_DISK_BYTES = 5 * GIB
_MIN_CPUS = 2


def memory(machine: Machine) -> Finding:
    """Look at the memory that this machine and its control group allow."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        total = 0
    limit = _number(Path(machine.control_group) / "memory.max")
    allowed = min(total, limit) if limit else total
    source = "limit of this container" if limit and limit < total else "of the machine"
    return Finding(
        name="memory",
        level="required",
        ok=allowed >= _MIN_MEMORY_BYTES,
        found=f"{allowed / GIB:.1f} GiB {source}" if allowed else "unknown",
        stops_working=f"runs: Ray, a decoder and a model want {_MIN_MEMORY_BYTES // GIB} GiB; "
        "with less the system kills one of them",
    )


def cpus(machine: Machine) -> Finding:
    """Count the processors that this process may use, fractions by a quota included."""
    try:
        num = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        num = float(os.cpu_count() or 1)
    quota, _, period = _text(Path(machine.control_group) / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        num = min(num, int(quota) / int(period))
    return Finding(
        name="CPUs",
        level="useful",
        ok=num >= _MIN_CPUS,
        found=f"{num:g}",
        stops_working="speed: decoding waits for the model, and the model for decoding",
    )


def shared_memory(machine: Machine) -> Finding:
    """Look at the free shared memory, where Ray keeps its objects."""
    size = 0 if machine.is_macos else _free_bytes(machine.shared_folder)
    return Finding(
        name="shared memory",
        level="useful",
        ok=machine.is_macos or size >= _MIN_SHARED_BYTES,
        found="not used on macOS"
        if machine.is_macos
        else f"{size / GIB:.1f} GiB free in {machine.shared_folder}",
        stops_working="speed: Ray then keeps its objects on disk",
        install=Install(
            debian="docker run --shm-size=8g ...; Kubernetes: an emptyDir with medium: Memory"
        ),
    )


def disk(machine: Machine) -> Finding:
    """Look at the free disk of the temporary folder."""
    size = _free_bytes(machine.temporary_folder)
    return Finding(
        name="free disk",
        level="required",
        ok=size >= _MIN_DISK_BYTES,
        found=f"{size / GIB:.1f} GiB in {machine.temporary_folder}",
        stops_working=f"runs: Ray spills here, renders are made here; keep "
        f"{_MIN_DISK_BYTES // GIB} GiB (and 12 GiB for the full model's weights, where "
        "huggingface_hub keeps them)",
    )


def _free_bytes(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
