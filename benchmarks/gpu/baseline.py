"""Static batches, and one request at a time: the engine is compared with them.

An answer of several hundred tokens takes either of them minutes. So they answer a part of each, and
the time that the rest would take is extrapolated: it grows with the steps, the prompts' does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Request
from phicorpus.models.model import Model
from tests.engine.static import StaticEngine

LONGEST_PART = 100  # tokens of the longest answer that are really generated


@dataclass(frozen=True, slots=True)
class Baseline:
    """The time that static batches take.

    Attributes:
        num_requests: That were answered.
        prompts_s: Until each had its first tokens.
        part_s: Until each had a part of its answer.
        divisor: Of the answers' lengths in that part.
    """

    num_requests: int
    prompts_s: float
    part_s: float
    divisor: int

    @property
    def wall_s(self) -> float:
        """Seconds that whole answers take."""
        return self.prompts_s + self.divisor * (self.part_s - self.prompts_s)

    @property
    def requests_per_s(self) -> float:
        """Requests answered per second."""
        return self.num_requests / self.wall_s


def measure(
    model: Model, config: EngineConfig, requests: Sequence[Request], *, batch: int
) -> Baseline:
    """Answer requests in static batches of this size.

    Args:
        model: Loaded; no engine has it.
        config: Of the engine that they are compared with.
        requests: As many as there is time for.
        batch: 1: one by one.
    """
    longest = max(request.max_new_tokens for request in requests)
    divisor = -(-longest // LONGEST_PART)
    static = config.model_copy(update={"max_requests": batch})
    prompts_s, part_s = (
        _run_s(model, static, [replace(one, max_new_tokens=new) for one, new in pairs])
        for pairs in (
            [(request, 1) for request in requests],
            [(request, max(1, request.max_new_tokens // divisor)) for request in requests],
        )
    )
    return Baseline(len(requests), prompts_s, max(part_s, prompts_s), divisor)


def _run_s(model: Model, config: EngineConfig, requests: Sequence[Request]) -> float:
    async def answer() -> None:
        await asyncio.gather(*map(engine.submit, requests))

    with closing(StaticEngine(model, config)) as engine:
        began = time.perf_counter()
        asyncio.run(answer())
        return time.perf_counter() - began
