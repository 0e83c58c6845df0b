"""Teach the decoder to answer from the rows of perfect encoders: order, tables, sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from tools.tiny_phi import network, requests
from tools.tiny_phi.streams import stream
from tools.tiny_phi.training import Plan, Training

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


def train(plan: Plan) -> None:
    """Train, from where a former run stopped."""
    model = network.decoder(plan.seed).train()
    nn.Module.to(model, plan.device)
    training = Training(model, plan.folder / "mind.pt", rate=RATE, steps=plan.steps)
    table = model.model.embed_tokens.weight.detach()
    source = stream(_asked, [plan.seed, 1, training.step], plan.num_workers)
    training.run(requests.answer_loss(model, requests.batch(own, table)) for own in source)


def _asked(rng: np.random.Generator) -> Iterator[list[requests.Request]]:
    imagination = Imagination(rng)
    imagination.refresh(2 * BATCH)
    while True:
        imagination.refresh()
        num_clips = int(rng.binomial(BATCH, _SPEECH))
        clips = [requests.imagined_clip(rng) for _ in range(num_clips)]
        yield [*clips, *(imagination.request() for _ in range(BATCH - num_clips))]
