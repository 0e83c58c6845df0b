"""The continuous engine against static batches on a GPU, with a decoder of full size.

Random weights in the shape of Phi-4-multimodal's decoder, bfloat16; real lengths. Tells output
tokens and assets per second, the share of the memory-bandwidth bound, and the peak of memory, in a
file for each kind of work, written after each engine. `--profile` tells instead where the time of
the continuous engine goes. `--rehearse` runs the same with a small decoder on the CPU.

    python -m benchmarks.gpu.engine --requests 256 --bandwidth-gb-s 4800
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

from benchmarks.workload import FULL, SMALL, WORKS, RandomModel, draw, processor, run_engine
from pipeline.config import EngineConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.engine import Request
from pipeline.engine.hooks import why_unsupported
from pipeline.engine.static import StaticEngine

WORK_NAMES = tuple(work.name for work in WORKS)
PROFILED = WORKS[1], 64  # requests of a kind
REHEARSAL_SCALE = 32  # lengths are divided by it
FULL_ENGINE = EngineConfig(
    max_requests=64, max_batch_tokens=8192, page_size=256, kv_cache_tokens=262_144,
    feature_rows=262_144, encode_batch=64,
)  # fmt: skip


def measure(
    model: RandomModel,
    kind: type[ContinuousEngine | StaticEngine],
    config: EngineConfig,
    requests: Sequence[Request],
) -> dict[str, float]:
    """Run once; starting and stopping are not measured."""
    on_gpu = model.decoder.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    num_steps = model.steps
    with closing(kind(model, config)) as engine:
        started = time.perf_counter()
        output_tokens, prefill_tokens = run_engine(engine, requests)
        wall_s = time.perf_counter() - started
    num_steps = model.steps - num_steps
    assets = len({request.request_id.split(".")[0] for request in requests})
    return {
        "wall_s": round(wall_s, 3),
        "output_tokens": output_tokens,
        "prefill_tokens": prefill_tokens,
        "output_tokens_per_s": round(output_tokens / wall_s, 1),
        "assets_per_s": round(assets / wall_s, 2),
        "steps": num_steps,
        "ms_per_step": round(1000 * wall_s / max(1, num_steps), 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_gpu else 0.0,
    }


def bound_s(
    model: RandomModel, requests: Sequence[Request], config: EngineConfig, gb_s: float
) -> float:
    """Seconds that reading the weights alone takes, with all rows of every step in use."""
    tokens = sum(request.max_new_tokens for request in requests)
    return tokens / config.max_requests * model.weight_bytes / (gb_s * 1e9)


def profile(model: RandomModel, config: EngineConfig, *, scale: int) -> str:
    """Tell which operations and kernels take the continuous engine's time, as a table."""
    on_gpu = model.decoder.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    requests = draw(*PROFILED, scale=scale)
    with (
        closing(ContinuousEngine(model, config)) as engine,
        torch.profiler.profile(
            activities=activities,
            experimental_config=_ExperimentalConfig(profile_all_threads=True),
        ) as profiler,
    ):
        run_engine(engine, requests)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=80)


def main() -> None:
    """Measure, and write a JSON file per kind of work; or the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--bandwidth-gb-s", type=float, default=4800.0)
    parser.add_argument("--work", choices=WORK_NAMES, default=None, help="one kind only")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.rehearse:
        torch.set_num_threads(1)
        model, scale = RandomModel(SMALL, "cpu", torch.float32), REHEARSAL_SCALE
        config = EngineConfig(max_requests=16)
        hardware = processor()
    else:
        model, scale = RandomModel(FULL, "cuda", torch.bfloat16), 1
        config = FULL_ENGINE
        hardware = torch.cuda.get_device_name()
    measure(model, ContinuousEngine, config, draw(WORKS[1], 8, scale=scale))  # warm up
    if options.profile:
        table = f"{hardware}\n{profile(model, config, scale=scale)}\n"
        (options.output / "profile.txt").write_text(table, "utf-8")
        return
    for work in WORKS:
        if options.work not in {None, work.name}:
            continue
        requests = draw(work, options.requests, scale=scale)
        report: dict[str, Any] = {
            "hardware": hardware,
            "rehearsal": options.rehearse,
            "torch": torch.__version__,
            "why_not_continuous": why_unsupported(model.decoder),
            "engine": config.model_dump(),
            "work": asdict(work) | {"requests": options.requests},
        }
        file = options.output / f"engine.{work.name.replace(', ', '.').replace(' ', '_')}.json"
        for name, kind in (("continuous", ContinuousEngine), ("static", StaticEngine)):
            report[name] = measure(model, kind, config, requests)
            if not options.rehearse:
                least_s = bound_s(model, requests, config, options.bandwidth_gb_s)
                report[name]["share_of_weight_bound"] = least_s / report[name]["wall_s"]
            file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
