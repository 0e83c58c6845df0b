"""Train the small model and write its checkpoint: python -m tools.tiny_phi RUN OUTPUT.

Encoders and decoder learn apart, at the same time, because the code between them is agreed upon
(vocabulary.py). Then each encoder is joined with the decoder by an adapter. Every run can be
stopped and started again; it goes on where it was.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from tools.tiny_phi import ears, export, eyes, joining, mind

Part = Literal["eyes", "mind", "ears", "vision", "speech"]
MINUTES: dict[Part, float] = {"eyes": 48, "mind": 70, "ears": 15, "vision": 36, "speech": 14}
"""Of training, each on one core of 2026's servers: under two hours on two."""


def train(part: Part, folder: Path, seed: int, scale: float, num_threads: int = 1) -> None:
    """Train one part."""
    torch.set_num_threads(num_threads)
    minutes = MINUTES[part] * scale
    if part == "vision" or part == "speech":  # noqa: PLR1714 - so that the type narrows
        joining.train(folder, part, seed=seed, minutes=minutes)
    else:
        {"eyes": eyes.train, "mind": mind.train, "ears": ears.train}[part](
            folder, seed=seed, minutes=minutes
        )


def train_all(parts: Sequence[Part], folder: Path, seed: int, scale: float) -> None:
    """Train parts at the same time, at most two."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for done in [pool.submit(train, part, folder, seed, scale) for part in parts]:
            done.result()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Of the runs: weights so far, and curves.")
    parser.add_argument("output", type=Path, help="Where the checkpoint goes.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="Of the training times.")
    parser.add_argument("--only", choices=sorted(MINUTES), help="Train this part, write nothing.")
    parser.add_argument("--threads", type=int, default=1, help="Of the one part.")
    options = parser.parse_args()
    if options.only:
        train(options.only, options.folder, options.seed, options.scale, options.threads)
        return
    train_all(("eyes", "mind", "ears"), options.folder, options.seed, options.scale)
    train_all(("vision", "speech"), options.folder, options.seed, options.scale)
    export.write(options.folder, options.output, seed=options.seed)


if __name__ == "__main__":
    main()
