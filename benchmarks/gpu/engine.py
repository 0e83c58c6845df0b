"""The engine under a steady load, with Phi-4-multimodal in full size and both its encoders.

Writes pages/s, RTFx or captions/s beside what was estimated before there was a GPU, the share of
the roofline by the ceilings that the same process measured, and what static batches and one request
at a time take. The weights are random; sizes and answers' lengths are those of real assets.

    python -m benchmarks.gpu.engine --work ocr --output FOLDER
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import baseline, load, report
from benchmarks.gpu.baseline import Baseline
from benchmarks.gpu.device import hardware, measure_ceilings
from benchmarks.gpu.model import PHI4_MULTIMODAL, random_model
from benchmarks.gpu.roofline import least
from benchmarks.gpu.work import CLIP_S, WORKS, Work, requests
from phicorpus.config import EngineConfig, EngineSettings
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.memory import plan_memory
from phicorpus.engine.memory_budget import gpu_budget
from phicorpus.models.memory_use import footprint
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal

# For one H100 of 80 GB in bfloat16, computed before anything had run on a GPU: without CUDA graphs
# and kernels of its own, with them, and the serial roofline.
ESTIMATES: Mapping[str, tuple[str, str, str]] = {
    "speech": ("610", "2,000 to 2,500", "3,300"),
    "ocr": ("3.3", "5.7", "7.1"),
    "captions": ("23", "28", "35"),
}
STATIC_REQUESTS, STATIC_BATCH, ALONE_REQUESTS = 32, 16, 4
REHEARSAL_DIVISOR, REHEARSAL_S = 16, 1.5
_SAMPLE = 256  # requests whose mean length counts


def engine_config(modality: Modality, *, rehearse: bool) -> EngineConfig:
    """Plan the sizes as a replica does, before any weight is there."""
    if rehearse:
        return EngineConfig(max_requests=8, kv_cache_tokens=8192, encode_batch=4)
    size = footprint("phi4_multimodal", PHI4_MULTIMODAL, modality, itemsize=2)
    return plan_memory(size, EngineSettings(), gpu_budget(None, None), label="a replica").config


def measure_engine(
    model: Phi4Multimodal, config: EngineConfig, work: Work, *, divisor: int
) -> dict[str, Any]:
    """Load the engine, after some requests that warm it up."""
    on_gpu = model.decoder.device.type == "cuda"
    seconds = REHEARSAL_S if divisor != 1 else work.seconds
    source = requests(work, model.image_encoder.preparation, divisor=divisor)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with closing(ContinuousEngine(model, config)) as engine:
        found = load.run(engine, source, outstanding=2 * config.max_requests, seconds=seconds)
        runs_on = engine.describe()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    return {**found.figures(work), "peak_gib": peak, "runs_on": runs_on}


def measure_baselines(
    model: Phi4Multimodal, config: EngineConfig, work: Work, *, divisor: int
) -> dict[str, Baseline]:
    """Measure static batches, and one request at a time."""
    drawn = requests(work, model.image_encoder.preparation, divisor=divisor)
    chosen = list(itertools.islice(drawn, STATIC_REQUESTS if divisor == 1 else 2 * ALONE_REQUESTS))
    return {
        "static": baseline.measure(model, config, chosen, batch=STATIC_BATCH),
        "one by one": baseline.measure(model, config, chosen[:ALONE_REQUESTS], batch=1),
    }


def lines(name: str, work: Work, found: Mapping[str, Any]) -> list[str]:
    """Write what was found in a few lines."""
    is_speech = work.size_px is None
    unit, factor = ("RTFx", CLIP_S) if is_speech else (f"{work.unit}/s", 1)
    engine = found["engine"]
    runs_on = engine["runs_on"]
    rate = f"{engine['assets_per_s'] * factor:,.2f} {unit}"
    written = [
        f"{name}: {rate}, {100 * engine['share_of_roofline']:.0f} % of this device's roofline;"
        f" {engine['mean_running']:.0f} requests ran, busy {100 * engine['busy_share']:.0f} %",
        f"  tokens/s: {engine['prefill_tokens_per_s']:,.0f} in,"
        f" {engine['output_tokens_per_s']:,.0f} out, {engine['mean_answer_tokens']:.0f} an answer;"
        f" {engine['step_ms'] or 0:.1f} ms from step to step; attention {runs_on['attention']},"
        f" layers {runs_on['layers']}, graphs {runs_on['graphs']}",
    ]
    if name in ESTIMATES:
        before, after, roofline = ESTIMATES[name]
        written.append(
            f"  estimated for an H100: {before} before graphs and kernels, {after} after, roofline"
            f" {roofline} {unit}"
        )
    cut = {reason: n for reason, n in engine["finish_reasons"].items() if reason != "length"}
    if cut:
        written.append(f"  answers that did not run to their length: {cut}")
    for way, static in found.get("baselines", {}).items():
        divisor = static["divisor"]
        scaled = "" if divisor == 1 else f", 1/{divisor} of each answer, the rest extrapolated"
        rate = f"{static['assets_per_s'] * factor:,.2f} {unit}"
        written.append(f"  {way}: {rate} ({static['num_requests']} requests{scaled})")
    return written


def main() -> None:
    """Measure one kind of work, the engine first, and write after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    work, divisor = WORKS[options.work], REHEARSAL_DIVISOR if options.rehearse else 1
    if options.rehearse:
        torch.set_num_threads(1)
    config = engine_config(work.modality, rehearse=options.rehearse)
    model = random_model(work.modality, rehearse=options.rehearse)
    device, dtype = model.decoder.device, model.decoder.dtype
    ceilings = measure_ceilings(device, dtype, seconds=0.05 if options.rehearse else 0.5)
    drawn = requests(work, model.image_encoder.preparation, divisor=divisor)
    needs = least(model, work, config, list(itertools.islice(drawn, _SAMPLE)))
    engine = measure_engine(model, config, work, divisor=divisor)
    engine["share_of_roofline"] = needs.seconds(ceilings) * engine["assets_per_s"]
    found: dict[str, Any] = {
        **hardware(device),
        "rehearsal": options.rehearse,
        "config": config.model_dump(),
        "ceilings": asdict(ceilings),
        "least": {**asdict(needs), "seconds": needs.seconds(ceilings)},
        "engine": engine,
    }
    name = f"engine.{options.work.replace(' ', '_')}"
    report.write(options.output, name, found, lines(options.work, work, found))
    found["baselines"] = {
        way: {**asdict(static), "assets_per_s": static.requests_per_s / work.tasks}
        for way, static in measure_baselines(model, config, work, divisor=divisor).items()
    }
    report.write(options.output, name, found, lines(options.work, work, found))


if __name__ == "__main__":
    main()
