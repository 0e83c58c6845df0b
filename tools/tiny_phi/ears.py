"""Teach the audio encoder to hear: the row in which a word ends says the word's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.phi4_multimodal.audio import FRAMES_PER_ROW
from phicorpus.models.phi4_multimodal.audio_encoder import AudioEncoder
from tools.tiny_phi import labels, network, requests, speech, vocabulary
from tools.tiny_phi.streams import stream
from tools.tiny_phi.training import Plan, Training

BATCH = 24
RATE = 1.5e-3
_POOL = 1200
_FRESH = 6
_SHARPNESS = 3.0


class Pool:
    """Spoken sentences to choose from; the oldest make room for new ones."""

    def __init__(self, rng: np.random.Generator, size: int = _POOL) -> None:
        self.rng, self.size = rng, size
        self._speaker = speech.Speaker()
        self._spoken: list[speech.Spoken] = []
        self._next = 0

    def refresh(self, num: int = _FRESH) -> None:
        """Say a few more."""
        for _ in range(num):
            spoken = speech.speak(self.rng, self._speaker)
            if len(self._spoken) < self.size:
                self._spoken.append(spoken)
            else:
                self._spoken[self._next % self.size] = spoken
            self._next += 1

    def clip(self, num: int) -> speech.Spoken:
        """Join so many sentences."""
        chosen = self.rng.integers(len(self._spoken), size=num)
        return speech.join(self.rng, [self._spoken[int(n)] for n in chosen])


@dataclass(slots=True)
class Batch:
    """Clips, padded, with what their rows should say.

    Attributes:
        mels: (n, frames, 80).
        lengths: (n,), frames.
        ideal: (n, rows, WIDTH).
        shares: (n, rows, classes + 1): the words that end in a row; the last class is none.
        covering: (n, rows): the word that is being said; -100 beyond the clip.
    """

    mels: torch.Tensor
    lengths: torch.Tensor
    ideal: torch.Tensor
    shares: torch.Tensor
    covering: torch.Tensor

    def to(self, device: str) -> Batch:
        """Put it where the modules are."""
        return Batch(**{name: getattr(self, name).to(device) for name in self.__slots__})


def batches(rng: np.random.Generator, size: int = BATCH) -> Iterator[Batch]:
    """Yield batches without end."""
    pool = Pool(rng)
    pool.refresh(2 * size)
    while True:
        pool.refresh()
        num = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
        yield collate([pool.clip(num) for _ in range(size // num)])


def collate(clips: list[speech.Spoken]) -> Batch:
    """Label and pad clips."""
    lengths = torch.tensor([len(clip.mel) for clip in clips])
    num_rows = -(-int(lengths.max()) // FRAMES_PER_ROW)
    num_classes = len(labels.classes())
    shares = np.zeros((len(clips), num_rows, num_classes + 1), np.float32)
    covering = np.full((len(clips), num_rows), -100)
    ideal = np.zeros((len(clips), num_rows, vocabulary.WIDTH), np.float32)
    for number, clip in enumerate(clips):
        own = -(-len(clip.mel) // FRAMES_PER_ROW)
        said = [(vocabulary.canonical(w), end * requests.ROWS_PER_S) for w, end in clip.ends_s]
        ideal[number, :own] = requests.spoken_rows(said, own)
        covering[number, :own] = num_classes
        start = 0.0
        for word, end in said:
            index = labels.class_numbers()[word]
            for row, weight in requests.shares_of_end(end, own):
                shares[number, row, index] += weight
            covering[number, max(int(start), int(end) - 12) : int(end) + 1] = index
            start = end
    shares = np.minimum(shares, 1.0)
    shares[..., -1] = np.maximum(0.0, 1 - shares[..., :-1].sum(-1))
    return Batch(
        mels=nn.utils.rnn.pad_sequence([torch.from_numpy(c.mel) for c in clips], batch_first=True),
        lengths=lengths,
        ideal=torch.from_numpy(ideal),
        shares=torch.from_numpy(shares),
        covering=torch.from_numpy(covering),
    )


class Listener(nn.Module):
    """The encoder with the head that teaches it; only the encoder is kept."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.covering = nn.Linear(network.EAR_WIDTH, len(labels.classes()) + 1)
        self.codes = nn.Buffer(torch.from_numpy(labels.class_codes()[0]), persistent=False)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss, and which part of the words is right."""
        states = self.encoder.encoder(batch.mels, batch.lengths)
        rows = self.encoder.audio_projection["speech"](states).float()
        logits = (rows @ self.codes.T - self.codes.square().sum(-1) / 2) * _SHARPNESS
        silent = torch.full_like(
            logits[..., :1], -_SHARPNESS * float(self.codes[0].square().sum()) / 4
        )
        scores = torch.cat([logits, silent], dim=-1).log_softmax(dim=-1)
        is_real = (batch.covering >= 0).float()
        says = 1 - batch.shares[..., -1]
        weights = (0.15 + says) * is_real
        words = (-(batch.shares * scores).sum(-1) * weights).sum() / weights.sum()
        error = (rows - batch.ideal).square().sum(-1)
        codes = (error * weights).sum() / weights.sum()
        over = self.covering(states).float()
        spoken = functional.cross_entropy(over.flatten(0, 1), batch.covering.flatten())
        sure = batch.shares[..., :-1].amax(-1) > 0.6
        heard = scores[..., :-1].argmax(-1) == batch.shares[..., :-1].argmax(-1)
        is_real_row = batch.covering >= 0
        found = {
            "words": float(words.detach()),
            "codes": float(codes.detach()),
            "covering": float(spoken.detach()),
            "covering_right": float(
                (over.argmax(-1) == batch.covering)[is_real_row].float().mean()
            ),
            "words_right": float(heard[sure].float().mean()),
        }
        return words + 0.3 * codes + spoken, found


def train(plan: Plan) -> None:
    """Train, from where a former run stopped."""
    torch.manual_seed(plan.seed)
    listener = Listener(network.audio_encoder(plan.seed)).to(plan.device)
    training = Training(listener, plan.folder / "ears.pt", rate=RATE, steps=plan.steps)
    source = stream(batches, [plan.seed, 2, training.step], plan.num_workers)
    training.run(listener(batch.to(plan.device)) for batch in source)
