"""Teach the decoder to answer from the rows of perfect encoders: order, tables, sentences."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from tools.tiny_phi import network, requests
from tools.tiny_phi.training import Training, log

BATCH = 32
RATE = 2e-3
_SPEECH = 0.22
_POOL, _FRESH = 4000, 6


class Imagination:
    """Pictures to ask about; the oldest make room for new ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._pictures: list[requests.Imagined] = []
        self._next = 0

    def request(self) -> requests.Request:
        """Ask about any of the pictures."""
        chosen = self._pictures[int(self.rng.integers(len(self._pictures)))]
        return requests.ask_imagined(self.rng, chosen)

    def refresh(self, num: int = _FRESH) -> None:
        """Imagine a few more."""
        for _ in range(num):
            picture = requests.imagine(self.rng)
            if len(self._pictures) < _POOL:
                self._pictures.append(picture)
            else:
                self._pictures[self._next % _POOL] = picture
            self._next += 1


def train(folder: Path, *, seed: int, minutes: float) -> None:
    """Train, from where a former run stopped, for so many minutes of the clock."""
    model = network.decoder(seed).train()
    training = Training(model, folder / "mind.pt", rate=RATE, minutes=minutes)
    rng = np.random.default_rng([seed, 1, training.step])
    table = model.model.embed_tokens.weight.detach()
    imagination = Imagination(rng)
    imagination.refresh(500)
    started = time.monotonic()
    while True:
        imagination.refresh()
        num_clips = int(rng.binomial(BATCH, _SPEECH))
        asked = [requests.imagined_clip(rng) for _ in range(num_clips)]
        asked += [imagination.request() for _ in range(BATCH - num_clips)]
        with torch.autocast("cpu", torch.bfloat16):
            loss, found = requests.answer_loss(model, requests.batch(asked, table))
        if training.update(loss):
            break
        if training.step % 50 == 0:
            log(folder / "mind.jsonl", training, found | {"s": time.monotonic() - started})
    training.save()
