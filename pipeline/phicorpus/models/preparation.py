"""The preparation of media: images become canvases, sound features. No torch: for CPU workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

    from phicorpus.models.model import Canvas


SoundPreparation = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]
"""Makes features, shape (frames, size), of mono samples and their rate; a function that pickles."""


class Preparation(Protocol):
    """Turns an image into the canvas of one model, and knows what the canvas costs.

    Implementations are frozen, picklable dataclasses: they travel to CPU workers.
    """

    @property
    def max_crops(self) -> int:
        """Upper bound of the crops an image is cut into, without its global view."""
        ...

    @property
    def most_rows(self) -> int:
        """Upper bound of the feature rows, which are prompt tokens, of an image."""
        ...

    def with_max_crops(self, max_crops: int) -> Self:
        """Make the same preparation with another bound."""
        ...

    def canvas(self, image: Image.Image, *, key: str | None = None) -> Canvas:
        """Resize and pad an RGB image as the model's original code does.

        Args:
            image: Any mode; converted to RGB.
            key: What names this canvas, where that is known; default: a hash of its pixels.

        Raises:
            RequestRefused: the image has a shape that the model does not take.
        """
        ...

    def num_rows(self, canvas: Canvas) -> int:
        """Count the feature rows, which are prompt tokens, of a canvas made by this preparation."""
        ...

    def num_rows_of_size(self, width_px: int, height_px: int) -> int:
        """Count the feature rows that an image of this size will have, without making its canvas.

        Raises:
            RequestRefused: the image has a shape that the model does not take.
        """
        ...


def canvas_key(pixels: npt.NDArray[np.uint8], valid_width_px: int, valid_height_px: int) -> str:
    """Hash a canvas by content.

    Args:
        pixels: shape (height, width, 3).
        valid_width_px: Columns that hold image.
        valid_height_px: Rows that hold image.

    Returns:
        32 hex digits; equal for equal pixels, sizes and valid areas.
    """
    sizes = f"{pixels.shape[1]}x{pixels.shape[0]}:{valid_width_px}x{valid_height_px}:"
    digest = hashlib.blake2b(sizes.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
