"""The parts of the model, how long each is trained, and which are trained side by side."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from tools.tiny_phi import ears, eyes, joining, mind

Part = Literal["eyes", "mind", "ears", "vision", "speech"]
STEPS: dict[Part, int] = {"eyes": 3600, "mind": 7450, "ears": 2450, "vision": 2750, "speech": 2150}
"""Of training: about two hours on two cores of 2026's servers."""


def train(part: Part, folder: Path, seed: int, scale: float, num_threads: int = 1) -> None:
    """Train one part; `scale` multiplies its steps."""
    torch.set_num_threads(num_threads)
    steps = max(1, round(STEPS[part] * scale))
    if part == "vision" or part == "speech":  # noqa: PLR1714 - so that the type narrows
        joining.train(folder, part, seed=seed, steps=steps)
    else:
        {"eyes": eyes.train, "mind": mind.train, "ears": ears.train}[part](
            folder, seed=seed, steps=steps
        )


def train_beside(parts: Sequence[Part], folder: Path, seed: int, scale: float) -> None:
    """Train parts at the same time, at most two, each a process with one thread."""
    # Not forked: torch's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for done in [pool.submit(train, part, folder, seed, scale) for part in parts]:
            done.result()
