"""Teach the decoder to answer from the rows of perfect encoders: order, tables, sentences."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from tools.tiny_phi import network, requests
from tools.tiny_phi.training import Training, log

BATCH = 32
RATE = 2e-3
_SPEECH = 0.22


def train(folder: Path, *, seed: int, minutes: float) -> None:
    """Train, from where a former run stopped, for so many minutes of the clock."""
    model = network.decoder(seed).train()
    training = Training(model, folder / "mind.pt", rate=RATE, minutes=minutes)
    rng = np.random.default_rng([seed, 1, training.step])
    table = model.model.embed_tokens.weight.detach()
    started = time.monotonic()
    found: dict[str, float] = {}
    while True:
        num_clips = int(rng.binomial(BATCH, _SPEECH))
        asked = [requests.imagined_clip(rng) for _ in range(num_clips)]
        asked += [requests.imagined_picture(rng) for _ in range(BATCH - num_clips)]
        with torch.autocast("cpu", torch.bfloat16):
            loss, found = requests.answer_loss(model, requests.batch(asked, table))
        if training.update(loss):
            break
        if training.step % 50 == 0:
            log(folder / "mind.jsonl", training, found | {"s": time.monotonic() - started})
    training.save()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=40.0)
    options = parser.parse_args()
    train(options.folder, seed=options.seed, minutes=options.minutes)


if __name__ == "__main__":
    main()
