"""A look inside a loaded model: the pixels that its tower gets, and the tower's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from phicorpus.models.model import Canvas, Model
from phicorpus.models.phi3_vision.model import Phi3Vision
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal


@dataclass(frozen=True, slots=True)
class Probed:
    """A model, and functions of its inside.

    Attributes:
        model: As loaded.
        pixels: Canvas to crops, shape (n, 3, side, side), the global view first.
        tower: Canvas to the tower's features that are used, shape (n, positions, hidden).
    """

    model: Model
    pixels: Callable[[Canvas], torch.Tensor]
    tower: Callable[[Canvas], torch.Tensor]


def probe(model: Model) -> Probed:
    """Return the inside of a model of any of our architectures."""
    if isinstance(model, Phi4Multimodal):
        return _phi4_multimodal(model)
    if isinstance(model, Phi3Vision):
        return _phi3_vision(model)
    return Probed(model, _no_images, _no_images)


def _no_images(_canvas: Canvas) -> torch.Tensor:
    raise TypeError("this model has no image encoder")


def _phi4_multimodal(model: Phi4Multimodal) -> Probed:
    encoder = model.image_encoder

    def pixels(canvas: Canvas) -> torch.Tensor:
        return encoder.views(canvas)[0]

    def tower(canvas: Canvas) -> torch.Tensor:
        with torch.no_grad():
            return encoder.features([encoder.views(canvas)], batch_size=8)[0].flatten(1, 2)

    return Probed(model, pixels, tower)


def _phi3_vision(model: Phi3Vision) -> Probed:
    encoder = model.image_encoder

    def tower(canvas: Canvas) -> torch.Tensor:
        with torch.no_grad():
            return encoder.features([encoder.views(canvas)], batch_size=8)[0]

    return Probed(model, encoder.views, tower)
