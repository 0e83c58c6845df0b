"""Join encoders and decoder: adapters over the frozen decoder, on real pictures or real speech."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.model import Canvas
from tools.tiny_phi import ears, eyes, labels, network, pictures, requests, speech
from tools.tiny_phi.requests import Request
from tools.tiny_phi.streams import stream
from tools.tiny_phi.training import Plan, Training, reached

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
        mind = reached(folder, "mind")
        self.decoder = network.decoder(seed)
        self.decoder.load_state_dict(mind)
        if sense == "vision":
            reader = eyes.Reader(network.image_encoder(seed))
            reader.load_state_dict(reached(folder, "eyes"))
            self.encoder: nn.Module = reader.encoder
        else:
            listener = ears.Listener(network.audio_encoder(seed))
            listener.load_state_dict(reached(folder, "ears"))
            self.encoder = listener.encoder
        network.adapt(self.decoder, network.RANKS[sense])

    def forward(self, asked: list[Request]) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss on the answers."""
        table = self.decoder.model.embed_tokens.weight.detach()
        return requests.answer_loss(self.decoder, requests.batch(asked, table))


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures, and what is asked about them.

    Attributes:
        canvases: One a picture.
        ideals: What the encoder's rows of all pictures should be, shape (rows, WIDTH).
        asked: Number of the picture, task, answer.
    """

    canvases: list[Canvas]
    ideals: torch.Tensor
    asked: list[tuple[int, str, str]]


def _shown(rng: np.random.Generator) -> Iterator[Shown]:
    while True:
        canvases: list[Canvas] = []
        ideals: list[torch.Tensor] = []
        asked: list[tuple[int, str, str]] = []
        while len(canvases) < _PICTURES:
            picture = pictures.sample(rng)
            labelled = labels.label(picture)
            if labelled is None:
                continue
            tasks = [requests.choose_task(rng, picture.kind) for _ in range(_QUESTIONS)]
            number = len(canvases)
            asked += [(number, task, picture.answers[task]) for task in dict.fromkeys(tasks)]
            canvases.append(labels.PREPARATION.canvas(pictures.draw(rng, picture)))
            ideals.append(torch.from_numpy(requests.laid_out(labelled, labelled)))
        yield Shown(canvases, torch.cat(ideals), asked)


Asked = tuple[list[Request], torch.Tensor]
"""Requests, and what the encoder's rows lack to the ideal ones."""


def _about_pictures(model: Joined, source: Iterator[Shown], device: str) -> Iterator[Asked]:
    codes = torch.from_numpy(labels.class_codes()[0]).to(device)
    for shown in source:
        rows = model.encoder(shown.canvases, 64)
        lack = _lack(torch.cat(rows).float(), shown.ideals.to(device), codes)
        asked = [
            requests.request(rows[number].float(), task, answer)
            for number, task, answer in shown.asked
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


def _spoken(rng: np.random.Generator) -> Iterator[list[speech.Spoken]]:
    pool = ears.Pool(rng)
    pool.refresh(2 * _CLIPS)
    while True:
        pool.refresh()
        num = int(rng.choice([1, 2, 3], p=[0.65, 0.2, 0.15]))
        yield [pool.clip(num) for _ in range(_CLIPS // num)]


def _about_clips(
    model: Joined, source: Iterator[list[speech.Spoken]], device: str
) -> Iterator[Asked]:
    for clips in source:
        mels = [torch.from_numpy(clip.mel).to(device) for clip in clips]
        rows = model.encoder(mels, [False] * len(mels))
        asked = [
            requests.request(own.float(), "transcribe", clip.text)
            for own, clip in zip(rows, clips, strict=True)
        ]
        yield asked, torch.zeros((), device=device)


def train(plan: Plan, sense: Sense) -> None:
    """Train, from where a former run stopped."""
    torch.manual_seed(plan.seed)
    model = Joined(plan.folder, sense, plan.seed).to(plan.device)
    path = plan.folder / f"{sense}.pt"
    training = Training(model, path, rate=RATE, steps=plan.steps, slow="encoder.")
    seed = [plan.seed, 3, training.step]
    if sense == "vision":
        asked = _about_pictures(model, stream(_shown, seed, plan.num_workers), plan.device)
    else:
        asked = _about_clips(model, stream(_spoken, seed, plan.num_workers), plan.device)
    training.run(_losses(model, asked), log_every=25)


def _losses(
    model: Joined, source: Iterator[Asked]
) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
    for asked, lack in source:
        loss, found = model(asked)
        yield loss + 0.3 * lack, found | {"lack": float(lack.detach())}
