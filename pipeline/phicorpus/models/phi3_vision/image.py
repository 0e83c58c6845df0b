"""Phi-3-vision's HD transform: an image is always enlarged to its crop grid. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from PIL import Image

from phicorpus.errors import CheckpointError, RequestRefused
from phicorpus.models.model import Canvas
from phicorpus.models.preparation import canvas_key

WHITE = (255, 255, 255)
DEFAULT_CROPS = 16


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """The image side of Phi-3-vision: CLIP's crops of 336 px, patches of 14 px.

    Attributes:
        crop_size_px: Side of a crop; an even number of patches.
        patch_size_px: Side of a patch of the vision tower.
        max_crops: `num_crops` of the original: 16 in Phi-3-vision, 4 in Phi-3.5-vision.

    Example:
        >>> ImagePreparation(max_crops=4).num_rows_of_size(850, 1100)
        757
    """

    crop_size_px: int = 336
    patch_size_px: int = 14
    max_crops: int = DEFAULT_CROPS

    def __post_init__(self) -> None:
        if self.crop_size_px % (2 * self.patch_size_px):
            raise ValueError(
                f"a crop of {self.crop_size_px} px is not an even number of"
                f" {self.patch_size_px} px patches"
            )
        if self.max_crops < 1:
            raise ValueError(f"max_crops is {self.max_crops}, expected at least 1")

    @classmethod
    def from_json(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Self:
        """Read a checkpoint's config.json and preprocessor_config.json.

        Raises:
            CheckpointError: the sizes in them do not fit together.
        """
        tower = (config.get("img_processor") or {}).get("clip_overrides") or {}
        found = {
            "crop_size_px": tower.get("image_size"),
            "patch_size_px": tower.get("patch_size"),
            "max_crops": preprocessor.get("num_crops"),
        }
        try:
            return cls(**{key: int(value) for key, value in found.items() if value is not None})
        except ValueError as error:
            raise CheckpointError(f"config.json, preprocessor_config.json: {error}") from error

    @property
    def most_rows(self) -> int:
        """Feature rows of as many crops as may be, one below the other."""
        return self._count_rows(1, self.max_crops)

    def with_max_crops(self, max_crops: int) -> Self:
        """Make the same preparation with another bound."""
        return replace(self, max_crops=max_crops)

    def canvas(self, image: Image.Image, *, key: str | None = None) -> Canvas:
        """Resize an image to its crop grid, aspect kept, and pad two sides equally with white.

        Tall images are transposed, not turned, and transposed back.

        Args:
            image: Any mode; converted to RGB.
            key: What names the canvas; default: a hash of its pixels.

        Raises:
            RequestRefused: the shorter side would vanish.
        """
        is_tall = image.width < image.height
        if image.mode != "RGB":  # a conversion copies RGB too
            image = image.convert("RGB")
        if is_tall:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        width_px, height_px = self._resized(*image.size)
        resized = image.resize((width_px, height_px), Image.Resampling.BILINEAR)
        num_rows = math.ceil(height_px / self.crop_size_px)
        padded = Image.new("RGB", (width_px, num_rows * self.crop_size_px), WHITE)
        padded.paste(resized, (0, (padded.height - height_px) // 2))
        if is_tall:
            padded = padded.transpose(Image.Transpose.TRANSPOSE)
        pixels = np.asarray(padded, dtype=np.uint8)
        height_px, width_px, _ = pixels.shape
        return Canvas(
            pixels=pixels,
            valid_width_px=width_px,  # the model sees the padding
            valid_height_px=height_px,
            key=key or canvas_key(pixels, width_px, height_px),
        )

    def num_rows(self, canvas: Canvas) -> int:
        """Count feature rows: crops, global view, and the separators.

        Raises:
            RequestRefused: the canvas was made for another model.
        """
        height_px, width_px, _ = canvas.pixels.shape
        if height_px % self.crop_size_px or width_px % self.crop_size_px:
            raise RequestRefused(
                f"canvas of {width_px}x{height_px} px is not a grid of {self.crop_size_px} px crops"
            )
        return self._count_rows(width_px // self.crop_size_px, height_px // self.crop_size_px)

    def num_rows_of_size(self, width_px: int, height_px: int) -> int:
        """Count the feature rows of an image of this size.

        Raises:
            RequestRefused: the shorter side would vanish.
        """
        width, height = self._resized(max(width_px, height_px), min(width_px, height_px))
        columns, rows = width // self.crop_size_px, math.ceil(height / self.crop_size_px)
        return (
            self._count_rows(rows, columns)
            if width_px < height_px
            else (self._count_rows(columns, rows))
        )

    def _resized(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Choose the size of a wide image: as many crops wide as the bound allows.

        Raises:
            RequestRefused: the shorter side would vanish.
        """
        if height_px < 1:
            raise RequestRefused(f"image of {width_px}x{height_px} px is empty")
        aspect = width_px / height_px
        columns = max(
            n for n in range(1, self.max_crops + 1) if n * math.ceil(n / aspect) <= self.max_crops
        )
        new_width = columns * self.crop_size_px
        new_height = int(new_width / aspect)
        if new_height < 1:
            raise RequestRefused(
                f"image of {width_px}x{height_px} px is too elongated: its shorter side vanishes"
            )
        return new_width, new_height

    def _count_rows(self, columns: int, rows: int) -> int:
        cells = self.crop_size_px // self.patch_size_px // 2
        # crops and global view, the separator between them, and the row ends of both
        return (rows * columns + 1) * cells * cells + 1 + (rows + 1) * cells
