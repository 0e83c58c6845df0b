"""Teach the decoder to answer from the rows of perfect encoders: order, tables, sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.tiny_phi import network, requests
from tools.tiny_phi.training import Training

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


def train(folder: Path, *, seed: int, steps: int) -> None:
    """Train, from where a former run stopped, up to so many steps."""
    model = network.decoder(seed).train()
    training = Training(model, folder / "mind.pt", rate=RATE, steps=steps)
    table = model.model.embed_tokens.weight.detach()
    asked = _asked(np.random.default_rng([seed, 1, training.step]))
    training.run(requests.answer_loss(model, requests.batch(own, table)) for own in asked)


def _asked(rng: np.random.Generator) -> Iterator[list[requests.Request]]:
    imagination = Imagination(rng)
    imagination.refresh(500)
    while True:
        imagination.refresh()
        num_clips = int(rng.binomial(BATCH, _SPEECH))
        clips = [requests.imagined_clip(rng) for _ in range(num_clips)]
        yield [*clips, *(imagination.request() for _ in range(BATCH - num_clips))]
