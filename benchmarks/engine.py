"""How fast the engines are: CPU-seconds, wall and host time per step, on a small random decoder.

Measured side by side: one request at a time, static batches of 8, 16 and 32, transformers' own
continuous batching (`sdpa`, text ids of the same lengths, as it takes no media), and the continuous
engine. The ways take turns, round after round, and the medians count. Lengths are drawn like those
of real work and divided by 8; the same draw for all. Every answer runs to its drawn length.

    python -m benchmarks.engine --rounds 3 --output benchmarks/results
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, Phi3Config, Phi3ForCausalLM

from pipeline.config import EngineConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.engine import Engine, Request
from pipeline.engine.static import StaticEngine
from pipeline.models.model import Canvas, Modality, Slot, Tokenizer, Turn

SCALE = 8  # real lengths are divided by it
HIDDEN, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 384, 4, 6, 2, 8192
NUM_ASSETS = 24
MAX_LENGTH = 2048
PROMPT_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work: feature rows per asset, and answers, median and spread (log-normal)."""

    name: str
    rows: int
    answer: int
    spread: float
    longest: int
    tasks: int


WORKS = (
    Work("ocr, 1 task", rows=1800, answer=500, spread=0.8, longest=1600, tasks=1),
    Work("caption, 1 task", rows=1000, answer=70, spread=0.3, longest=160, tasks=1),
    Work("caption, 3 tasks", rows=1000, answer=70, spread=0.3, longest=160, tasks=3),
    Work("speech, 1 task", rows=280, answer=90, spread=0.5, longest=300, tasks=1),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: seconds, tokens, the decoder's steps and its CPU-seconds in them."""

    cpu_s: float
    wall_s: float
    output_tokens: int
    prefill_tokens: int
    steps: int
    forward_s: float


class NoTokenizer:
    """Decoding text is not measured."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "" if skip_special_tokens else str(len(token_ids))


class BenchModel:
    """A random decoder; media are as many random rows as their canvas is wide."""

    name = "bench"
    modality: Modality = "vision"
    stop_ids: frozenset[int] = frozenset()
    banned_ids: frozenset[int] = frozenset()
    max_length = MAX_LENGTH
    regime_length = 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = Phi3Config(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=4 * HIDDEN,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS,
            max_position_embeddings=MAX_LENGTH, sliding_window=None, pad_token_id=0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.decoder = Phi3ForCausalLM(config).eval()
        self.tokenizer: Tokenizer = NoTokenizer()
        self.steps = 0
        self.forward_s = 0.0
        self._started = 0.0
        self.decoder.register_forward_pre_hook(self._before)
        self.decoder.register_forward_hook(self._after)

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        prompt: list[int | Slot] = []
        for part in turns[0].content:
            if isinstance(part, str):
                prompt.extend(part.encode())
            else:
                width = part.pixels.shape[1] if isinstance(part, Canvas) else part.samples.size
                prompt.append(Slot(part, "image", width))
        return prompt

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        return [torch.randn(slot.num_rows, HIDDEN) * 0.02 for slot in slots]

    def set_regime(self, regime: str) -> None:
        raise AssertionError(regime)

    def _before(self, *_: object) -> None:
        self._started = time.thread_time()

    def _after(self, *_: object) -> None:
        self.forward_s += time.thread_time() - self._started
        self.steps += 1


def draw(work: Work) -> list[Request]:
    """The requests of a kind of work, in random order; the same at each call."""
    generator = np.random.default_rng(0)
    requests: list[Request] = []
    for asset in range(NUM_ASSETS):
        rows = max(8, int(work.rows * generator.uniform(0.7, 1.3)) // SCALE)
        pixels = np.zeros((1, rows, 3), np.uint8)
        canvas = Canvas(pixels=pixels, valid_width_px=1, valid_height_px=1, key=f"{asset}")
        for task in range(work.tasks):
            length = min(work.longest, generator.lognormal(np.log(work.answer), work.spread))
            requests.append(
                Request(
                    request_id=f"{asset}.{task}",
                    turns=(Turn("user", (canvas, chr(97 + task) * PROMPT_TOKENS)),),
                    max_new_tokens=max(2, int(length) // SCALE),
                )
            )
    return [requests[index] for index in generator.permutation(len(requests))]


def measure(model: BenchModel, run: Callable[[], tuple[int, int]]) -> Measured:
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


def run_engine(engine: Engine, requests: Sequence[Request]) -> tuple[int, int]:
    """Submit all at once."""

    async def gather() -> int:
        completions = await asyncio.gather(*map(engine.submit, requests))
        return sum(len(completion.token_ids) for completion in completions)

    return asyncio.run(gather()), engine.stats().prefill_tokens


def run_stock(model: BenchModel, requests: Sequence[Request]) -> tuple[int, int]:
    """Transformers' own continuous batching, on text ids of the same lengths."""
    generator = np.random.default_rng(1)
    manager = cast("Any", model.decoder).init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=32, num_blocks=512, max_batch_tokens=512, max_requests_per_batch=32,
            auto_switch_to_flash=False, use_async_batching=False, use_cuda_graph=False,
        ),
    )  # fmt: skip
    prompt_tokens = output_tokens = 0
    prefixes: dict[str, list[int]] = {}
    manager.start()
    try:
        for request in requests:
            parts = model.tokenize(request.turns)
            rows = next(part.num_rows for part in parts if isinstance(part, Slot))
            asset = request.request_id.split(".")[0]
            prefix = prefixes.setdefault(asset, generator.integers(0, VOCABULARY, rows).tolist())
            ids = [*prefix, *(part for part in parts if isinstance(part, int))]
            prompt_tokens += len(ids)
            manager.add_request(ids, max_new_tokens=request.max_new_tokens)
        for _ in requests:
            output = manager.get_result(timeout=600)
            if output is None:
                raise queue.Empty
            output_tokens += len(output.generated_tokens)
    finally:
        manager.stop()
    return output_tokens, prompt_tokens


def ways(model: BenchModel) -> dict[str, Callable[[Sequence[Request]], Measured]]:
    """The ways to run requests, by name. Starting and stopping an engine is not measured."""

    def engine(kind: type[StaticEngine | ContinuousEngine], size: int) -> Any:  # noqa: ANN401
        def run(requests: Sequence[Request]) -> Measured:
            config = EngineConfig(max_requests=size, kv_cache_tokens=16_384, feature_rows=16_384)
            started = kind(model, config)
            try:
                return measure(model, lambda: run_engine(started, requests))
            finally:
                started.close()

        return run

    return {
        "one by one": engine(StaticEngine, 1),
        "static 8": engine(StaticEngine, 8),
        "static 16": engine(StaticEngine, 16),
        "static 32": engine(StaticEngine, 32),
        "stock continuous": lambda requests: measure(model, lambda: run_stock(model, requests)),
        "continuous engine": engine(ContinuousEngine, 32),
    }


def summary(runs: Sequence[Measured]) -> dict[str, float]:
    """Medians over the rounds."""
    tokens = runs[0].output_tokens
    cpu_s = statistics.median(run.cpu_s for run in runs)
    host_ms = [1000 * (run.cpu_s - run.forward_s) / run.steps for run in runs if run.steps]
    return {
        "output_tokens": tokens,
        "prefill_tokens": runs[0].prefill_tokens,
        "steps": runs[0].steps,
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(statistics.median(run.wall_s for run in runs), 3),
        "tokens_per_cpu_s": round(tokens / cpu_s, 1),
        "host_ms_per_step": round(statistics.median(host_ms), 2),
    }


def table(results: dict[str, dict[str, dict[str, float]]], hardware: str) -> str:
    """The results as Markdown."""
    lines = [
        f"# Engines\n\n{hardware}. Output tokens per CPU-second, median; in brackets against static"
        " batches of 16. Host: the engine's CPU milliseconds per step outside the decoder. Prefill:"
        " tokens that the engine computed, of the prompts' tokens. CPU-seconds can be compared on a"
        " machine that others use too; wall time, in the JSON, cannot.\n",
        "| work | " + " | ".join(next(iter(results.values()))) + " | host ms | prefill |",
        "|---" * (len(next(iter(results.values()))) + 3) + "|",
    ]
    for work, by_way in results.items():
        base = by_way["static 16"]["tokens_per_cpu_s"]
        cells = [
            f"{way['tokens_per_cpu_s']:.0f} ({way['tokens_per_cpu_s'] / base:.2f})"
            for way in by_way.values()
        ]
        ours, static = by_way["continuous engine"], by_way["static 16"]
        cells.append(f"{ours['host_ms_per_step']:.2f}")
        cells.append(f"{ours['prefill_tokens']:.0f} of {static['prefill_tokens']:.0f}")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The machine, in words."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs, 1 torch thread"


def main() -> None:
    """Measure, and write a JSON and a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = BenchModel()
    runs: dict[str, dict[str, list[Measured]]] = {}
    for _ in range(options.rounds):
        for work in WORKS:
            requests = draw(work)
            for name, run in ways(model).items():
                runs.setdefault(work.name, {}).setdefault(name, []).append(run(requests))
    results = {
        work: {name: summary(measured) for name, measured in by_way.items()}
        for work, by_way in runs.items()
    }
    hardware = f"{processor()}, torch {torch.__version__}, transformers {transformers.__version__}"
    report = {
        "hardware": hardware,
        "rounds": options.rounds,
        "scale": SCALE,
        "works": [asdict(work) for work in WORKS],
        "results": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "engine.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (options.output / "engine.md").write_text(table(results, hardware), "utf-8")


if __name__ == "__main__":
    main()
