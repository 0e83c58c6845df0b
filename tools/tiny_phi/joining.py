"""Join encoders and decoder: adapters over the frozen decoder, on real pictures or real speech."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.models.model import Canvas
from tools.tiny_phi import ears, eyes, labels, network, pictures, requests
from tools.tiny_phi.requests import Request
from tools.tiny_phi.training import Training

Sense = Literal["vision", "speech"]
RATE = 8e-4
_PICTURES, _QUESTIONS, _CLIPS = 12, 2, 20


class Joined(nn.Module):
    """One modality's encoder before the decoder with that modality's adapters.

    Attributes:
        encoder: Of images or audio; trained on.
        decoder: Its base weights are frozen.
    """

    def __init__(self, folder: Path, sense: Sense, seed: int) -> None:
        """Load what the encoders' and the decoder's own training reached."""
        super().__init__()
        mind = torch.load(folder / "mind.pt", weights_only=True)["module"]
        self.decoder = network.decoder(seed)
        self.decoder.load_state_dict(mind)
        if sense == "vision":
            reader = eyes.Reader(network.image_encoder(seed))
            reader.load_state_dict(torch.load(folder / "eyes.pt", weights_only=True)["module"])
            self.encoder: nn.Module = reader.encoder
        else:
            listener = ears.Listener(network.audio_encoder(seed))
            listener.load_state_dict(torch.load(folder / "ears.pt", weights_only=True)["module"])
            self.encoder = listener.encoder
        network.adapt(self.decoder, network.RANKS[sense])

    def forward(self, asked: list[Request]) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss on the answers."""
        table = self.decoder.model.embed_tokens.weight.detach()
        return requests.answer_loss(self.decoder, requests.batch(asked, table))


Asked = tuple[list[Request], torch.Tensor]
"""Requests, and what the encoder's rows lack to the ideal ones."""


def _pictures(model: Joined, rng: np.random.Generator) -> Iterator[Asked]:
    codes = torch.from_numpy(labels.class_codes()[0])
    while True:
        drawn: list[tuple[pictures.Picture, Canvas]] = []
        ideals: list[torch.Tensor] = []
        while len(drawn) < _PICTURES:
            picture = pictures.sample(rng)
            labelled = labels.label(picture)
            if labelled is None:
                continue
            drawn.append((picture, labels.PREPARATION.canvas(pictures.draw(rng, picture))))
            ideals.append(torch.from_numpy(requests.laid_out(labelled, labelled)))
        rows = model.encoder([canvas for _, canvas in drawn], 64)
        lack = _lack(torch.cat(rows).float(), torch.cat(ideals), codes)
        asked: list[Request] = []
        for (picture, _), own in zip(drawn, rows, strict=True):
            tasks = [requests.choose_task(rng, picture.kind) for _ in range(_QUESTIONS)]
            asked += [
                requests.request(own.float(), task, picture.answers[task])
                for task in dict.fromkeys(tasks)
            ]
        yield asked, lack


def _lack(rows: torch.Tensor, ideal: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Compare rows with ideal ones, by distance and by the word that they are nearest to."""
    halves = codes.square().sum(-1) / 2
    wanted = ideal @ codes.T - halves
    says = wanted.amax(-1) > 0.6 * float(halves[0])
    weights = 0.05 + says.float()
    distance = ((rows - ideal).square().sum(-1) * weights).sum() / weights.sum()
    words = functional.cross_entropy(3.0 * (rows[says] @ codes.T - halves), wanted[says].argmax(-1))
    return 0.3 * distance + words


def _clips(model: Joined, rng: np.random.Generator) -> Iterator[Asked]:
    pool = ears.Pool(rng)
    pool.refresh(160)
    while True:
        pool.refresh()
        num = int(rng.choice([1, 2, 3], p=[0.65, 0.2, 0.15]))
        clips = [pool.clip(num) for _ in range(_CLIPS // num)]
        mels = [torch.from_numpy(clip.mel) for clip in clips]
        rows = model.encoder(mels, [False] * len(mels))
        asked = [
            requests.request(own.float(), "transcribe", clip.text)
            for own, clip in zip(rows, clips, strict=True)
        ]
        yield asked, torch.zeros(())


_SOURCES: dict[Sense, Callable[[Joined, np.random.Generator], Iterator[Asked]]] = {
    "vision": _pictures,
    "speech": _clips,
}


def train(folder: Path, sense: Sense, *, seed: int, steps: int) -> None:
    """Train, from where a former run stopped, up to so many steps."""
    torch.manual_seed(seed)
    model = Joined(folder, sense, seed)
    training = Training(model, folder / f"{sense}.pt", rate=RATE, steps=steps, slow="encoder.")
    rng = np.random.default_rng([seed, 3, training.step])
    training.run(_losses(model, _SOURCES[sense](model, rng)), log_every=25)


def _losses(
    model: Joined, source: Iterator[Asked]
) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
    for asked, lack in source:
        loss, found = model(asked)
        yield loss + 0.3 * lack, found | {"lack": float(lack.detach())}
