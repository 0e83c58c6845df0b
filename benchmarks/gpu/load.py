"""A steady load: as many requests outstanding as an engine should have, for a fixed time.

The first third of the time is not counted, and what is open at its end is cancelled: how fast the
engine is does not decide how long a measurement takes, and no batch that runs empty is in it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.work import CLIP_S, Work
from phicorpus.engine.engine import Completion, Engine, EngineStats, Request

_LOOK_S = 0.1  # between two looks at how many requests run


@dataclass(slots=True)
class Load:
    """The work of an engine in the part of the time that counts.

    Attributes:
        seconds: That count.
        completions: That came in them.
        running: How many requests ran, at every look.
        before: Counters at their start.
        after: Counters at their end.
    """

    seconds: float = 0.0
    completions: list[Completion] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    before: EngineStats = field(default_factory=EngineStats)
    after: EngineStats = field(default_factory=EngineStats)

    def figures(self, work: Work) -> dict[str, Any]:
        """Return rates and means."""
        answers = len(self.completions)
        tokens = sum(len(completion.token_ids) for completion in self.completions)
        prefilled = self.after.prefill_tokens - self.before.prefill_tokens
        busy_s = self.after.busy_s - self.before.busy_s
        loaded_s = self.after.loaded_s - self.before.loaded_s
        assets_per_s = answers / work.tasks / self.seconds
        steps = self.after.extra.get("steps", 0) - self.before.extra.get("steps", 0)
        return {
            "seconds": round(self.seconds, 2),
            "answers": answers,
            "answers_per_s": answers / self.seconds,
            "assets_per_s": assets_per_s,
            "rtfx": assets_per_s * CLIP_S if work.size_px is None else None,
            "output_tokens_per_s": tokens / self.seconds,
            "step_ms": 1000 * self.seconds / steps if steps else None,
            "prefill_tokens_per_s": prefilled / self.seconds,
            "mean_answer_tokens": tokens / max(1, answers),
            "mean_running": statistics.mean(self.running),
            "busy_share": busy_s / loaded_s,
            "finish_reasons": Counter(completion.finish_reason for completion in self.completions),
            "counters": {
                name: value - self.before.extra.get(name, 0.0)
                for name, value in self.after.extra.items()
            },
        }


def run(engine: Engine, source: Iterator[Request], *, outstanding: int, seconds: float) -> Load:
    """Load an engine for so many seconds, and return when it has nothing to do any more."""
    return asyncio.run(_feed(engine, source, outstanding, seconds))


async def _feed(
    engine: Engine, source: Iterator[Request], outstanding: int, seconds: float
) -> Load:
    load = Load()
    open_ids: set[str] = set()
    began = time.perf_counter()
    counts_from, ends = began + seconds / 3, began + seconds

    async def ask() -> None:
        while time.perf_counter() < ends:
            request = next(source)
            open_ids.add(request.request_id)
            completion = await engine.submit(request)
            open_ids.discard(request.request_id)
            if counts_from <= time.perf_counter() < ends:
                load.completions.append(completion)

    asking = [asyncio.create_task(ask()) for _ in range(outstanding)]
    await asyncio.wait(asking, timeout=seconds / 3, return_when=asyncio.FIRST_EXCEPTION)
    load.before, since = engine.stats(), time.perf_counter()
    while not load.running or time.perf_counter() < ends:
        load.running.append(engine.stats().num_running)
        await asyncio.wait(asking, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
    load.after, load.seconds = engine.stats(), time.perf_counter() - since
    while not all(task.done() for task in asking):
        for request_id in open_ids:
            engine.cancel(request_id)
        await asyncio.wait(asking, timeout=_LOOK_S)
    await asyncio.gather(*asking)
    return load
