"""The parts of the model, how long each is trained, and which are trained side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Literal

import torch

from tools.tiny_phi import ears, eyes, joining, mind
from tools.tiny_phi.training import Plan

Part = Literal["eyes", "mind", "ears", "vision", "speech"]
STEPS: dict[Part, int] = {"eyes": 3600, "mind": 7450, "ears": 2450, "vision": 2750, "speech": 2150}
ROUNDS: tuple[tuple[Part, ...], ...] = (("mind", "eyes", "ears"), ("vision", "speech"))
"""What is trained side by side, one round after the other."""


def train(part: Part, plan: Plan, num_threads: int = 1) -> None:
    """Train one part in this process."""
    torch.set_num_threads(num_threads)
    if part == "vision" or part == "speech":  # noqa: PLR1714 - so that the type narrows
        joining.train(plan, part)
    else:
        {"eyes": eyes.train, "mind": mind.train, "ears": ears.train}[part](plan)


def scaled(plan: Plan, part: Part, scale: float) -> Plan:
    """Give a part its steps, `scale` times as many as the shipped model's, at least one."""
    return replace(plan, steps=max(1, round(STEPS[part] * scale)))


def train_beside(parts: Sequence[Part], plan: Plan, scale: float) -> None:
    """Train parts at the same time, each a process with one thread, no more than there are CPUs."""
    # Not forked: torch's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(parts), os.cpu_count() or 1), mp_context=context) as pool:
        trainings = [pool.submit(train, part, scaled(plan, part, scale)) for part in parts]
        for training in trainings:
            training.result()
