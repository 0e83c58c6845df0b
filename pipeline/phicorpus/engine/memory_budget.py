"""The memory that a replica may take of the device that it will run on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

log = logging.getLogger(__name__)

DeviceKind = Literal["cpu", "gpu"]
_CPU_SHARE = 0.5
_GB = 1e9
_ENOUGH = 0.9
"""Of a replica's share: the rest may be this process's own context."""
_LONGEST_WAIT_S = 60.0
_LOOKS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Memory that one replica may take.

    Attributes:
        device: Decides which sizes are worth having.
        num_bytes: How much.
        origin: Of what, in words.
    """

    device: DeviceKind
    num_bytes: int
    origin: str


def cpu_budget(share: float | None, replicas: int) -> Budget:
    """Return a share of the memory that is free; by default half of it, divided by the replicas."""
    free = free_bytes()
    chosen = share if share is not None else _CPU_SHARE / replicas
    origin = f"{chosen:.3g} of the {free / _GB:.1f} GB of memory that are free"
    return Budget(device="cpu", num_bytes=int(free * chosen), origin=origin)


def gpu_budget(share: float | None, gpus: float) -> Budget:
    """Return a share of a GPU's memory, by default that of the GPU which the replica gets.

    Never more than is free there now: other programs may be on it. A replica before this one may
    still be ending, so it waits for what is missing of a share that is known.

    Args:
        share: That the config sets; None: by `gpus`.
        gpus: That Ray has set aside for the replica; 0: it may use what is free.
    """
    import torch  # noqa: PLC0415  (in actors only)

    chosen = share if share is not None else min(1.0, gpus) or 1.0
    is_known = share is not None or gpus > 0
    read = torch.cuda.mem_get_info
    free, total = awaited_free(chosen, read) if is_known else read()
    origin = (
        f"{chosen:.3g} of the {total / _GB:.1f} GB of a {torch.cuda.get_device_name()}, of which"
        f" {free / _GB:.1f} GB are free"
    )
    return Budget(device="gpu", num_bytes=min(int(total * chosen), free), origin=origin)


def awaited_free(
    share: float,
    read: Callable[[], tuple[int, int]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, int]:
    """Wait for memory that an ending process still holds; a minute at most.

    Args:
        share: Of all the memory, that is wanted.
        read: Returns the bytes that are free, and all.
        clock: Seconds of a clock that never goes back.
        sleep: Waits so many seconds.

    Returns:
        (free, total): the bytes at the end of the wait.
    """
    began = clock()
    free, total = read()
    enough = _ENOUGH * share * total
    if free >= enough:
        return free, total
    found = {"wanted_gb": round(enough / _GB, 1), "free_gb": round(free / _GB, 1)}
    log.info("waiting for the GPU's memory", extra=found)
    while free < enough and clock() - began < _LONGEST_WAIT_S:
        sleep(_LOOKS_EVERY_S)
        free, total = read()
    level = logging.INFO if free >= enough else logging.WARNING
    found |= {"free_gb": round(free / _GB, 1), "waited_s": round(clock() - began, 1)}
    log.log(level, "the GPU's memory after the wait", extra=found)
    return free, total


def free_bytes(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the memory that this process can still get: of the machine and its control group.

    Args:
        groups: Where the control groups are mounted; versions 1 and 2 are read.
        own: Names the control groups of this process.
    """
    left = [psutil.virtual_memory().available]
    for folder in _folders(groups, own):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            allowed, taken = _number(folder / limit), _number(folder / used)
            if allowed is not None and taken is not None:
                left.append(allowed - taken + _statistic(folder / "memory.stat", cached))
    return max(0, min(left))


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """Yield the group's folders: its own, and the one a container sees as the root."""
    yield groups
    yield groups / "memory"
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            yield groups / controllers / path.lstrip("/")


def _statistic(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def has_gpu() -> bool:
    """Return, without torch, whether this machine seems to have an NVIDIA GPU."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
