"""What was measured of the engines, as a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

BASE, OURS, ALONE = "static 16", "continuous", "one by one"


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: seconds, tokens, the decoder's steps and its CPU-seconds in them."""

    cpu_s: float
    wall_s: float
    output_tokens: int
    prefill_tokens: int
    steps: int
    forward_s: float


def summary(runs: Sequence[Measured]) -> dict[str, float]:
    """Medians over the rounds."""
    tokens = runs[0].output_tokens
    cpu_s = statistics.median(run.cpu_s for run in runs)
    in_ms = [1000 * (run.cpu_s - run.forward_s) / run.steps for run in runs if run.steps]
    return {
        "output_tokens": tokens,
        "prefill_tokens": runs[0].prefill_tokens,
        "steps": runs[0].steps,
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(statistics.median(run.wall_s for run in runs), 3),
        "tokens_per_cpu_s": round(tokens / cpu_s, 1),
        "host_ms_per_step": round(statistics.median(in_ms), 2),
    }


Results = dict[str, dict[str, dict[str, float]]]


def table(results: Results, report: dict[str, Any]) -> str:
    """The results as Markdown."""
    first = next(iter(results.values()))
    lines = [
        f"# Engines\n\n{report['hardware']}; {report['rounds']} rounds. Output tokens per"
        f" CPU-second, median; in brackets against {BASE}. Static batches as they come and sorted"
        " by the prompt; stock: transformers' own continuous batching; seen before: the continuous"
        " engine, when it has answered about the same media. CPU-seconds can be compared on a"
        " machine that others use too; wall time, in the JSON, cannot. The decoder has four layers:"
        " what the engine saves of the last one for a prompt, about a fifth, is a part in 32 of a"
        " real one.\n",
        "| work | " + " | ".join(first) + " |",
        "|---" * (len(first) + 1) + "|",
    ]
    for work, by_way in results.items():
        base = by_way[BASE]["tokens_per_cpu_s"]
        cells = [
            f"{way['tokens_per_cpu_s']:.0f} ({way['tokens_per_cpu_s'] / base:.2f})"
            for way in by_way.values()
        ]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    lines += [
        "\nOf a prompt's token the decoder's matrix products, and they alone, take"
        f" {report['prompt_products_us']} us of CPU; no engine answers in less.\n",
        "| work | prompt tokens | computed by the engine | their products in the engine's CPU |"
        " against one by one | at most, if all else were free | host ms per step |",
        "|---" * 7 + "|",
    ]
    for work, by_way in results.items():
        ours, static, alone = by_way[OURS], by_way[BASE], by_way[ALONE]
        prefill = f"{static['prefill_tokens']:.0f} | {ours['prefill_tokens']:.0f}"
        products_s = ours["prefill_tokens"] * report["prompt_products_us"] / 1e6
        lines.append(
            f"| {work} | {prefill} | {products_s / ours['cpu_s']:.0%}"
            f" | {ours['tokens_per_cpu_s'] / alone['tokens_per_cpu_s']:.2f}"
            f" | {alone['cpu_s'] / products_s:.1f}"
            f" | {ours['host_ms_per_step']:.2f} |"
        )
    lines.append(
        f"\nHost time per decoding step at {report['host']}: {report['host_ms']} ms, choosing the"
        " tokens included.\n"
    )
    lines.append("![tokens per CPU-second](engine.svg)")
    return "\n".join(lines) + "\n"


def plot(results: Results) -> Figure:
    """Bars: each way's tokens per CPU-second against static batches of 16, by work."""
    names = list(next(iter(results.values())))
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [
            by_way[name]["tokens_per_cpu_s"] / by_way[BASE]["tokens_per_cpu_s"]
            for by_way in results.values()
        ]
        colour = plt.get_cmap("viridis")(place / (len(names) - 1))
        axes.bar(np.arange(len(results)) + place * width, heights, width, label=name, color=colour)
    axes.set_xticks(np.arange(len(results)) + 0.4 - width / 2, list(results))
    axes.set_ylabel(f"tokens per CPU-second,\n{BASE} = 1")
    axes.axhline(1.0, color="grey", linewidth=0.6)
    axes.legend(fontsize=7, ncols=2)
    return figure
