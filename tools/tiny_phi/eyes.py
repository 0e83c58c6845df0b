"""Teach the image encoder to read: every cell says the code of the word that starts in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.phi4_multimodal.vision import ImageEncoder
from tools.tiny_phi import labels, network, pictures, vocabulary
from tools.tiny_phi.streams import stream
from tools.tiny_phi.training import Plan, Training

BATCH = 24
RATE = 1.5e-3
_SHARPNESS = 3.0
_FARTHEST_SHIFT_PX = 5
_VIEWS_PER_PICTURE = 2


@dataclass(slots=True)
class Batch:
    """Crops with what their cells should say.

    Attributes:
        crops: (n, 3, 224, 224) in [-1, 1].
        valid: (n, 16, 16) bool.
        ideal: (n, 8, 8, WIDTH).
        shares: (n, 8, 8, slots, classes + 1).
        characters: (n, 16, 16) class numbers.
    """

    crops: torch.Tensor
    valid: torch.Tensor
    ideal: torch.Tensor
    shares: torch.Tensor
    characters: torch.Tensor

    def to(self, device: str) -> Batch:
        """Put it where the modules are."""
        return Batch(**{name: getattr(self, name).to(device) for name in self.__slots__})


View = tuple[npt.NDArray[np.uint8], int, labels.Floats, labels.Floats, npt.NDArray[np.int64]]


def views(rng: np.random.Generator) -> Iterator[View]:
    """Yield crops without end: each picture a few times, moved a little."""
    while True:
        picture = pictures.sample(rng)
        pixels = labels.PREPARATION.canvas(pictures.draw(rng, picture)).pixels
        for _ in range(_VIEWS_PER_PICTURE):
            far = _FARTHEST_SHIFT_PX
            shift = (int(rng.integers(-far, far + 1)), int(rng.integers(-far, far + 1)))
            labelled = labels.label(picture, shift)
            if labelled is None:
                continue
            is_masked = labelled.valid_rows < labels.SIDE and rng.random() < 0.5
            valid_rows = labelled.valid_rows if is_masked else labels.SIDE
            yield (
                _moved(pixels, shift),
                valid_rows,
                labels.ideal_rows(labelled, valid_rows),
                labels.distribution(labelled),
                labels.characters(picture, shift),
            )


def _moved(pixels: npt.NDArray[np.uint8], shift: tuple[int, int]) -> npt.NDArray[np.uint8]:
    far = _FARTHEST_SHIFT_PX
    padded = np.pad(pixels, ((far, far), (far, far), (0, 0)), mode="edge")
    top, left = far - shift[1], far - shift[0]
    return padded[top : top + pixels.shape[0], left : left + pixels.shape[1]]


def batches(rng: np.random.Generator, size: int = BATCH) -> Iterator[Batch]:
    """Yield batches without end."""
    source = views(rng)
    while True:
        chosen = [next(source) for _ in range(size)]
        valid = torch.zeros(size, labels.SIDE, labels.SIDE, dtype=torch.bool)
        for number, view in enumerate(chosen):
            valid[number, : view[1]] = True
        crops = torch.from_numpy(np.stack([view[0] for view in chosen]))
        yield Batch(
            crops=crops.permute(0, 3, 1, 2).float().div(127.5).sub(1.0),
            valid=valid,
            ideal=torch.from_numpy(np.stack([view[2] for view in chosen])),
            shares=torch.from_numpy(np.stack([view[3] for view in chosen])),
            characters=torch.from_numpy(np.stack([view[4] for view in chosen])),
        )


class Reader(nn.Module):
    """The encoder with the heads that teach it; only the encoder is kept."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.characters = nn.Sequential(
            nn.LayerNorm(network.TOWER_WIDTH),
            nn.Linear(network.TOWER_WIDTH, len(labels.CHARACTERS) + 1),
        )
        codes = torch.from_numpy(labels.class_codes())
        self.codes = nn.Buffer(codes, persistent=False)
        weights = torch.ones(len(labels.CHARACTERS) + 1)
        weights[0] = 0.1
        self.weights = nn.Buffer(weights, persistent=False)
        marks = [vocabulary.code("<row end>"), vocabulary.code("<views>")]
        self.marks = nn.Buffer(torch.from_numpy(np.stack(marks)), persistent=False)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss, and what share of characters and words is right."""
        tower = self.encoder.img_processor
        mask = None if bool(batch.valid.all()) else batch.valid.flatten(1)
        states = tower.embeddings(batch.crops, batch.valid)
        guessed = states
        for number, layer in enumerate(tower.encoder.layers):
            states = layer(states, mask)
            if number == 1:
                guessed = self.characters(states).float()
        grid = states.transpose(1, 2).unflatten(2, (labels.SIDE, -1))
        cells = functional.avg_pool2d(grid, kernel_size=2).permute(0, 2, 3, 1)
        rows = self.encoder.img_projection(cells).float()
        ends = torch.stack([self.encoder.sub_GN.flatten(), self.encoder.glb_GN.flatten()])
        marks = self.encoder.img_projection(ends).float()
        likeness = torch.einsum("nrcw,skw->nrcsk", rows, self.codes)
        # Longer codes are like everything: this makes the word the one that is nearest.
        logits = (likeness - self.codes.square().sum(-1) / 2) * _SHARPNESS
        silent = torch.zeros_like(logits[..., :1])
        scores = torch.cat([logits, silent], dim=-1).log_softmax(dim=-1)
        used = batch.valid[:, ::2, ::2]
        says = (1 - batch.shares[..., -1]) * used[..., None]
        weights = (0.05 + says) * used[..., None]
        # A scene has few words, a page many: each counts by the root of its number.
        weights = weights * says.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1.0).rsqrt()
        words = (-(batch.shares * scores).sum(-1) * weights).sum() / weights.sum()
        error = (rows - batch.ideal).square().sum(-1)
        near = weights.amax(-1)
        codes = (error * near).sum() / near.sum() + (marks - self.marks).square().sum(-1).mean()
        spelled = functional.cross_entropy(
            guessed.flatten(0, 1), batch.characters.flatten(), weight=self.weights
        )
        found = {
            "words": float(words.detach()),
            "codes": float(codes.detach()),
            "characters": float(spelled.detach()),
            **_shares_right(batch, scores, guessed),
        }
        return words + 0.3 * codes + 0.5 * spelled, found


def _shares_right(batch: Batch, scores: torch.Tensor, guessed: torch.Tensor) -> dict[str, float]:
    is_text = batch.characters.flatten() > 0
    letters = guessed.flatten(0, 1).argmax(-1) == batch.characters.flatten()
    sure = batch.shares[..., :-1].amax(-1) > 0.7
    sure &= batch.valid[:, ::2, ::2, None]
    right = scores.argmax(-1) == batch.shares.argmax(-1)
    quiet = (batch.shares[..., -1] > 0.99) & batch.valid[:, ::2, ::2, None]
    return {
        "characters_right": float(letters[is_text].float().mean()),
        "words_right": float(right[..., 0][sure[..., 0]].float().mean()),
        "kinds_right": float(right[..., 1][sure[..., 1]].float().mean()),
        "quiet_right": float(right[quiet].float().mean()),
    }


def train(plan: Plan) -> None:
    """Train, from where a former run stopped."""
    torch.manual_seed(plan.seed)
    reader = Reader(network.image_encoder(plan.seed)).to(plan.device)
    training = Training(reader, plan.folder / "eyes.pt", rate=RATE, steps=plan.steps)
    source = stream(batches, [plan.seed, training.step], plan.num_workers)
    training.run(reader(batch.to(plan.device)) for batch in source)
