"""A device's name, its clock, and its ceilings: bytes copied and products computed per second."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers

from benchmarks.workload import processor

_BURST, _LEAST_BURSTS = 10, 2  # copies or products between two looks at the clock


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The most that a device did when it did nothing else.

    Attributes:
        gb_s: Bytes read and written per second by a copy, in 10^9.
        tflops: Operations per second of a product of random matrices, in 10^12.
    """

    gb_s: float
    tflops: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, seconds: float) -> Ceilings:
    """Measure both ceilings, each for about so many seconds."""
    on_gpu = device.type == "cuda"
    num_bytes, side = (2**31, 8192) if on_gpu else (2**25, 512)
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copies_per_s = _rate(lambda: target.copy_(source), device, seconds)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    products_per_s = _rate(lambda: torch.mm(left, right, out=product), device, seconds)
    return Ceilings(
        gb_s=round(2 * num_bytes * copies_per_s / 1e9, 1),
        tflops=round(2 * side**3 * products_per_s / 1e12, 3),
    )


def _rate(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Run again and again; return how often per second in the fastest burst, the first left out."""
    ends, fastest_ms, num_bursts = time.perf_counter() + seconds, float("inf"), 0
    while num_bursts < _LEAST_BURSTS or time.perf_counter() < ends:
        burst_ms = span_ms(lambda: [run() for _ in range(_BURST)], device)
        fastest_ms = min(fastest_ms, burst_ms) if num_bursts else fastest_ms
        num_bursts += 1
    return 1000 * _BURST / fastest_ms


def span_ms(run: Callable[[], object], device: torch.device) -> float:
    """Run once; return milliseconds on the device, by events, or on the CPU by the clock."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - began)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def median_ms(run: Callable[[], object], device: torch.device, *, times: int) -> float:
    """Warm up twice, then return the median of so many spans."""
    for _ in range(2):
        run()
    synchronize(device)
    return statistics.median(span_ms(run, device) for _ in range(times))


def host_ms(run: Callable[[], object], device: torch.device, *, times: int) -> float:
    """Return the median milliseconds until `run` returns, the device idle before each."""
    spans: list[float] = []
    for _ in range(times):
        synchronize(device)
        began = time.perf_counter()
        run()
        spans.append(1000 * (time.perf_counter() - began))
    synchronize(device)
    return statistics.median(spans)


def synchronize(device: torch.device) -> None:
    """Wait for all that was launched on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> dict[str, str]:
    """Name what a result was measured on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "gpu": gpu,
        "processor": processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
