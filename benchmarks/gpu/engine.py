"""The continuous engine against static batches on a GPU, with a decoder of full size.

Random weights in the shape of Phi-4-multimodal's decoder, bfloat16; real lengths. Tells output
tokens, assets (pages) and seconds of sound per second, the share of the roofline, and the peak of
memory, in a file for each kind of work, written after each engine. `--profile` tells instead where
the time of the continuous engine goes. `--rehearse` runs the same with a small decoder on the CPU.

    python -m benchmarks.gpu.engine --requests 256 --bandwidth-gb-s 4800
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from phicorpus.engine.library_loop import why_unsupported
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

from benchmarks.workload import (
    FULL,
    MIXED,
    QUESTION_TOKENS,
    SMALL,
    WORKS,
    RandomModel,
    draw,
    draw_mixed,
    num_prompt_tokens,
    processor,
    run_engine,
)
from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Request
from phicorpus.models.model import Canvas
from tests.engine.static import StaticEngine

WORK_NAMES = (*(work.name for work in WORKS), MIXED)
NUM_ALONE = 4  # requests tell how long one by one takes
ROWS_PER_S = 12.5  # of sound, in Phi-4-multimodal
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


@dataclass(frozen=True, slots=True)
class Device:
    """What a device does at best.

    Attributes:
        gb_s: Bytes read per second, in 10^9.
        tflops: Operations of matrix products per second, in 10^12.
    """

    gb_s: float
    tflops: float


def bounds_s(
    model: RandomModel, requests: Sequence[Request], rows: int, device: Device
) -> dict[str, float]:
    """Seconds that parts of the work take at the least, one after the other.

    Args:
        model: Of the work.
        requests: Their answers run to their full length; tasks of one asset share its prefix.
        rows: Requests that decode together, in every step as many.
        device: At its best.

    Returns:
        "prompts": the matrix products of all prompts' tokens; "weights": reading them once a
        decoding step; "keys": reading every answer's keys and values at each of its tokens.
    """
    shape = model.decoder.config
    products = 2 * sum(part.numel() for part in model.decoder.model.layers.parameters())
    item_bytes = model.decoder.lm_head.weight.element_size()
    head_size = shape.hidden_size // shape.num_attention_heads
    key_heads = shape.num_key_value_heads or shape.num_attention_heads
    token_bytes = 2 * shape.num_hidden_layers * key_heads * head_size * item_bytes
    prompts: dict[str, int] = {}
    read_tokens = answer_tokens = 0
    for request in requests:
        length, new = num_prompt_tokens(model, request), request.max_new_tokens
        asset = request.request_id.partition(".")[0]
        prompts[asset] = prompts.get(asset, length - QUESTION_TOKENS) + QUESTION_TOKENS
        read_tokens += new * length + new * (new - 1) // 2
        answer_tokens += new
    return {
        "prompts": sum(prompts.values()) * products / (device.tflops * 1e12),
        "weights": answer_tokens / rows * model.weight_bytes / (device.gb_s * 1e9),
        "keys": read_tokens * token_bytes / (device.gb_s * 1e9),
    }


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


def drawn(name: str, num_requests: int, *, scale: int) -> list[Request]:
    """Draw requests of a kind of work, or of all kinds together, by its name."""
    if name == MIXED:
        return draw_mixed(num_requests, scale=scale)
    (work,) = (work for work in WORKS if work.name == name)
    return draw(work, num_requests, scale=scale)


def spoken_s(requests: Sequence[Request]) -> float:
    """Seconds of sound in the requests about speech, by their rows."""
    rows = sum(
        part.pixels.shape[1]
        for request in requests
        if request.request_id.startswith("speech")
        for part in request.turns[0].content
        if isinstance(part, Canvas)
    )
    return rows / ROWS_PER_S


def main() -> None:
    """Measure, and write a JSON file per kind of work; or the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--bandwidth-gb-s", type=float, default=4800.0, help="of an H200")
    parser.add_argument("--tflops", type=float, default=989.0, help="of an H200, dense bfloat16")
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
    device = Device(gb_s=options.bandwidth_gb_s, tflops=options.tflops)
    for name in WORK_NAMES:
        if options.work not in {None, name}:
            continue
        requests = drawn(name, options.requests, scale=scale)
        report: dict[str, Any] = {
            "hardware": hardware,
            "rehearsal": options.rehearse,
            "torch": torch.__version__,
            "why_not_continuous": why_unsupported(model.decoder),
            "engine": config.model_dump(),
            "work": name,
            "requests": len(requests),
        }
        file = options.output / f"engine.{name.replace(', ', '.').replace(' ', '_')}.json"
        for way, kind, rows, chosen in (
            ("continuous", ContinuousEngine, config.max_requests, requests),
            ("static", StaticEngine, 16, requests),
            ("one by one", StaticEngine, 1, requests[:NUM_ALONE]),
        ):
            own = config.model_copy(update={"max_requests": rows})
            report[way] = found = measure(model, kind, own, chosen)
            found["audio_s_per_s"] = round(spoken_s(chosen) / found["wall_s"], 2)
            if not options.rehearse:
                least_s = bounds_s(model, chosen, config.max_requests, device)
                report[way] |= {"least_s": least_s}
                report[way]["share_of_roofline"] = sum(least_s.values()) / found["wall_s"]
            file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
