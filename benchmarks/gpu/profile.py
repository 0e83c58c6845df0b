"""The kernels by the engine's time that they take, and the time in which the GPU has no work.

python -m benchmarks.gpu.profile --output FOLDER
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

from benchmarks.gpu import load, report
from benchmarks.gpu.device import hardware
from benchmarks.gpu.engine import REHEARSAL_DIVISOR, REHEARSAL_S, engine_config
from benchmarks.gpu.model import random_model
from benchmarks.gpu.work import WORKS, requests
from phicorpus.engine.continuous import ContinuousEngine

WORK, SECONDS = WORKS["captions"], 10.0
_BEGINS, _LASTS = 0.7, 0.1  # of those seconds: more kernels than that take long to count
NUM_LINES, NAME_WIDTH = 14, 70


def main() -> None:
    """Load the engine, and profile a part of that time, in which all its parts are busy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if options.rehearse:
        torch.set_num_threads(1)
    seconds, divisor = (REHEARSAL_S, REHEARSAL_DIVISOR) if options.rehearse else (SECONDS, 1)
    config = engine_config(WORK.modality, rehearse=options.rehearse)
    model = random_model(WORK.modality, rehearse=options.rehearse)
    device = model.decoder.device
    on_gpu = device.type == "cuda"
    source = requests(WORK, model.image_encoder.preparation, divisor=divisor)
    with closing(ContinuousEngine(model, config)) as engine, ThreadPoolExecutor(1) as pool:
        outstanding = 2 * config.max_requests
        loaded = pool.submit(load.run, engine, source, outstanding=outstanding, seconds=seconds)
        time.sleep(seconds * _BEGINS)
        with torch.profiler.profile(
            activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU],
            experimental_config=_ExperimentalConfig(profile_all_threads=not on_gpu),
        ) as profiler:
            began = time.perf_counter()
            time.sleep(seconds * _LASTS)
            wall_ms = 1000 * (time.perf_counter() - began)
        loaded.result()
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    taken = [
        {"name": event.key, "calls": event.count, "ms": getattr(event, attribute) / 1000}
        for event in profiler.key_averages()
    ]
    taken.sort(key=lambda kernel: kernel["ms"], reverse=True)
    total_ms = sum(kernel["ms"] for kernel in taken)
    calls = sum(kernel["calls"] for kernel in taken)
    found = {**hardware(device), "wall_ms": wall_ms, "kernels_ms": total_ms, "kernels": taken}
    lines = [
        f"profile of captions: kernels {total_ms:,.0f} ms of {wall_ms:,.0f} ms"
        f" ({100 * total_ms / wall_ms:.0f} %), {calls:,} of {len(taken)} kinds",
        *report.table(
            [
                ("kernel", "calls", "ms", "% of kernels"),
                *(
                    (one["name"][:NAME_WIDTH], one["calls"], one["ms"], 100 * one["ms"] / total_ms)
                    for one in taken[:NUM_LINES]
                ),
            ]
        ),
    ]
    report.write(options.output, "profile", found, lines)


if __name__ == "__main__":
    main()
