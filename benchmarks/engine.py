"""How fast the engines are: CPU-seconds, wall and host time per step, on a small random decoder.

Measured side by side: one request at a time, static batches of 8, 16 and 32, as they come and
sorted by the prompt's length, transformers' own continuous batching (`sdpa`, text ids of the same
lengths, as it takes no media), the continuous engine, and it again when it has seen the media and
their prefixes before. The ways take turns, round after round, and the medians count. Lengths are
drawn like those of real work and divided by 8; the same draw for all. An answer runs to its drawn
length, unless it goes round in circles, as one of a random decoder sometimes does.

    python -m benchmarks.engine --rounds 3 --output benchmarks/results
    python -m benchmarks.engine --rounds 1 --append --work ocr   # more, beside what is there
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.engine_report import OURS, Measured, plot, summary, table
from benchmarks.workload import (
    MIXED,
    SMALL,
    WORKS,
    RandomModel,
    draw,
    draw_mixed,
    num_prompt_tokens,
    processor,
    run_engine,
    sort_by_length,
)
from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Request
from phicorpus.models.model import Canvas, Turn
from tests.engine.static import StaticEngine

SCALE = 8  # real lengths are divided by it
NUM_ASSETS = 48
CONFIG = EngineConfig(kv_cache_tokens=32_768, feature_rows=32_768)
HOST_REQUESTS, HOST_CONTEXT, HOST_PAGE = 64, 3400, 256


Way = Callable[[Sequence[Request]], Measured]


def measure(model: RandomModel, run: Callable[[], tuple[int, int]]) -> Measured:
    """Run once; `run` gives output and prefill tokens."""
    model.steps, model.forward_s = 0, 0.0
    cpu, wall = time.process_time(), time.perf_counter()
    output_tokens, prefill_tokens = run()
    return Measured(
        cpu_s=time.process_time() - cpu,
        wall_s=time.perf_counter() - wall,
        output_tokens=output_tokens,
        prefill_tokens=prefill_tokens,
        steps=model.steps,
        forward_s=model.forward_s,
    )


def run_stock(model: RandomModel, requests: Sequence[Request]) -> tuple[int, int]:
    """Transformers' own continuous batching, on text ids of the same lengths."""
    generator = np.random.default_rng(1)
    manager = cast("Any", model.decoder).init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=CONFIG.page_size, num_blocks=CONFIG.kv_cache_tokens // CONFIG.page_size,
            max_batch_tokens=CONFIG.max_batch_tokens, max_requests_per_batch=CONFIG.max_requests,
            auto_switch_to_flash=False, use_async_batching=False, use_cuda_graph=False,
        ),
    )  # fmt: skip
    prompt_tokens = output_tokens = 0
    assets: dict[str, list[int]] = {}
    manager.start()
    try:
        for request in requests:
            length = num_prompt_tokens(model, request)
            asset, _, task = request.request_id.partition(".")
            ids = assets.setdefault(asset, generator.integers(0, 4096, length).tolist())
            prompt_tokens += length
            manager.add_request(
                [*ids[:-1], 4096 + int(task)], max_new_tokens=request.max_new_tokens
            )
        for _ in requests:
            output = manager.get_result(timeout=600)
            if output is None:
                raise queue.Empty
            output_tokens += len(output.generated_tokens)
    finally:
        manager.stop()
    return output_tokens, prompt_tokens


def ways(model: RandomModel) -> dict[str, Way]:
    """The ways to run requests, by name. Starting and stopping an engine is not measured."""

    def static(size: int, *, sort: bool = False) -> Way:
        def run(requests: Sequence[Request]) -> Measured:
            config = CONFIG.model_copy(update={"max_requests": size})
            chosen = sort_by_length(model, requests) if sort else requests
            with closing(StaticEngine(model, config)) as engine:
                return measure(model, lambda: run_engine(engine, chosen))

        return run

    def continuous(*, again: bool) -> Way:
        def run(requests: Sequence[Request]) -> Measured:
            with closing(ContinuousEngine(model, CONFIG)) as engine:
                if again:
                    run_engine(engine, requests)
                return measure(model, lambda: run_engine(engine, requests))

        return run

    return {
        "one by one": static(1),
        **{f"static {size}": static(size) for size in (8, 16, 32)},
        **{f"sorted {size}": static(size, sort=True) for size in (8, 16, 32)},
        "stock": lambda requests: measure(model, lambda: run_stock(model, requests)),
        OURS: continuous(again=False),
        "seen before": continuous(again=True),
    }


def host_ms() -> float:
    """Host milliseconds per decoding step outside the decoder, at 64 requests of 3,400 tokens.

    The decoder is as small as can be; choosing tokens among 8,192 is counted with the host.
    """
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    model = RandomModel({**SMALL, **sizes, **heads})
    gaps: list[float] = []
    ended, decoding = 0.0, False

    def before(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal decoding
        if decoding and kwargs["inputs_embeds"].shape[1] == HOST_REQUESTS:
            gaps.append(time.thread_time() - ended)
        decoding = kwargs["inputs_embeds"].shape[1] == HOST_REQUESTS

    def after(*_: object) -> None:
        nonlocal ended
        ended = time.thread_time()

    model.decoder.register_forward_pre_hook(before, with_kwargs=True)
    model.decoder.register_forward_hook(after)
    pixels = np.zeros((1, HOST_CONTEXT, 3), np.uint8)
    requests = [
        Request(
            request_id=str(index),
            turns=(Turn("user", (Canvas(
                pixels=pixels, valid_width_px=1, valid_height_px=1, key=str(index)
            ), "a")),),
            max_new_tokens=160,
        )
        for index in range(HOST_REQUESTS)
    ]  # fmt: skip
    config = EngineConfig(
        max_requests=HOST_REQUESTS, max_batch_tokens=4096, page_size=HOST_PAGE,
        kv_cache_tokens=90 * (HOST_CONTEXT + 512), feature_rows=HOST_REQUESTS * HOST_CONTEXT,
    )  # fmt: skip
    with closing(ContinuousEngine(model, config)) as engine:
        run_engine(engine, requests)
    return round(1000 * statistics.median(gaps), 2)


def prompt_products_s(model: RandomModel) -> float:
    """CPU-seconds per prompt token that the decoder's matrix products take, and they alone.

    No engine can answer in less. What the last layer has behind attention is left out, since a
    prompt owes it nothing.
    """
    total_s = 0.0
    last = f"layers.{model.decoder.config.num_hidden_layers - 1}."
    for name, part in model.decoder.model.named_modules():
        if isinstance(part, torch.nn.Linear) and not (last in name and "qkv" not in name):
            states = torch.randn(CONFIG.max_batch_tokens, part.in_features)
            tries: list[float] = []
            for _ in range(20):
                started = time.thread_time()
                part(states)
                tries.append((time.thread_time() - started) / len(states))
            total_s += statistics.median(tries)
    return total_s


def main() -> None:
    """Measure, and write a JSON, a Markdown file and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="keep the rounds that are there")
    parser.add_argument("--work", default="", help="only kinds of work whose name begins so")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.output / "engine.json"
    hardware = f"{processor()}, torch {torch.__version__}, transformers {transformers.__version__}"
    runs: dict[str, dict[str, list[Measured]]] = {}
    if options.append and path.exists():
        for work, by_way in json.loads(path.read_text("utf-8"))["runs"].items():
            runs[work] = {name: [Measured(**run) for run in own] for name, own in by_way.items()}
    model = RandomModel(SMALL)
    drawn = {work.name: draw(work, NUM_ASSETS * work.tasks, scale=SCALE) for work in WORKS}
    drawn[MIXED] = draw_mixed(NUM_ASSETS, scale=SCALE)
    for _ in range(options.rounds):
        for work, requests in drawn.items():
            if work.startswith(options.work):
                for name, run in ways(model).items():
                    runs.setdefault(work, {}).setdefault(name, []).append(run(requests))
    results = {
        work: {name: summary(measured) for name, measured in by_way.items()}
        for work, by_way in runs.items()
    }
    report = {
        "hardware": hardware,
        "rounds": min(len(own) for by_way in runs.values() for own in by_way.values()),
        "scale": SCALE,
        "assets": NUM_ASSETS,
        "host": f"{HOST_REQUESTS} requests of {HOST_CONTEXT} tokens, in pages of {HOST_PAGE}",
        "host_ms": host_ms(),
        "prompt_products_us": round(1e6 * prompt_products_s(model), 2),
        "works": [asdict(work) for work in WORKS],
        "results": results,
        "runs": {w: {n: [asdict(r) for r in o] for n, o in b.items()} for w, b in runs.items()},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (options.output / "engine.md").write_text(table(results, report), "utf-8")
    plot(results).savefig(options.output / "engine.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
