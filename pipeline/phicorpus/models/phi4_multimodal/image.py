"""Phi-4-multimodal's HD transform: an image becomes a grid of square crops. No torch."""

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

# The original refuses images that have a side shorter than this after resizing.
MIN_SIDE_PX = 10
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an image lies on its canvas.

    Attributes:
        num_columns: Crops side by side.
        num_rows: Crops one above the other.
        width_px: Width of the resized image; the rest of the canvas is white, on the right.
        height_px: Height of the resized image; the rest is white, below.
    """

    num_columns: int
    num_rows: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """The image side of Phi-4-multimodal: crop size, patch size and crop bound.

    The defaults are the published model's (`crop_size` of config.json, SigLIP's patch size,
    `dynamic_hd` of preprocessor_config.json).

    Attributes:
        crop_size_px: Side of a crop; an even number of patches.
        patch_size_px: Side of a patch of the vision tower.
        max_crops: Images with more crops than this are fitted to the closest aspect ratio.

    Example:
        >>> ImagePreparation().num_rows_of_size(850, 1100)
        1659
    """

    crop_size_px: int = 448
    patch_size_px: int = 14
    max_crops: int = 36

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
        layer = (config.get("embd_layer") or {}).get("image_embd_layer") or {}
        tower = config.get("vision_tiny_overrides") or {}
        found = {
            "crop_size_px": layer.get("crop_size"),
            "patch_size_px": tower.get("patch_size"),
            "max_crops": preprocessor.get("dynamic_hd"),
        }
        try:
            return cls(**{key: int(value) for key, value in found.items() if value is not None})
        except ValueError as error:
            raise CheckpointError(f"config.json, preprocessor_config.json: {error}") from error

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size_px // self.patch_size_px

    @property
    def most_rows(self) -> int:
        """Feature rows of as many crops as may be, one below the other."""
        width_px, height_px = self.crop_size_px, self.max_crops * self.crop_size_px
        return self._count_rows(width_px, height_px, width_px=width_px, height_px=height_px)

    def with_max_crops(self, max_crops: int) -> Self:
        """Make the same preparation with another bound."""
        return replace(self, max_crops=max_crops)

    def canvas(self, image: Image.Image, *, key: str | None = None) -> Canvas:
        """Resize an image to its crop grid, aspect kept, and pad right and below with white.

        Args:
            image: Any mode; converted to RGB.
            key: What names the canvas; default: a hash of its pixels.

        Raises:
            RequestRefused: one side would be shorter than 10 px, as in the original code.
        """
        layout = self.layout(*image.size)
        rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies RGB too
        resized = rgb.resize((layout.width_px, layout.height_px), Image.Resampling.BILINEAR)
        size = (layout.num_columns * self.crop_size_px, layout.num_rows * self.crop_size_px)
        padded = Image.new("RGB", size, WHITE)
        padded.paste(resized, (0, 0))
        pixels = np.asarray(padded, dtype=np.uint8)
        return Canvas(
            pixels=pixels,
            valid_width_px=layout.width_px,
            valid_height_px=layout.height_px,
            key=key or canvas_key(pixels, layout.width_px, layout.height_px),
        )

    def num_rows(self, canvas: Canvas) -> int:
        """Count feature rows: the used cells of the crops, the global view, and the separators.

        Raises:
            RequestRefused: the canvas was made for another model.
        """
        height_px, width_px, _ = canvas.pixels.shape
        if height_px % self.crop_size_px or width_px % self.crop_size_px:
            raise RequestRefused(
                f"canvas of {width_px}x{height_px} px is not a grid of {self.crop_size_px} px crops"
            )
        return self._count_rows(
            canvas.valid_width_px, canvas.valid_height_px, width_px=width_px, height_px=height_px
        )

    def num_rows_of_size(self, width_px: int, height_px: int) -> int:
        """Count the feature rows of an image of this size.

        Raises:
            RequestRefused: one side would be shorter than 10 px, as in the original code.
        """
        layout = self.layout(width_px, height_px)
        return self._count_rows(
            layout.width_px,
            layout.height_px,
            width_px=layout.num_columns * self.crop_size_px,
            height_px=layout.num_rows * self.crop_size_px,
        )

    def used_cells(self, valid_px: int, total_px: int) -> int:
        """Count the 2x2 patch cells along one axis that hold image.

        A patch counts as padding only when it is padding entirely; a cell, when its first patch is.

        Args:
            valid_px: Pixels that hold image.
            total_px: Side of the canvas.
        """
        valid_patches = total_px // self.patch_size_px - (total_px - valid_px) // self.patch_size_px
        return math.ceil(valid_patches / 2)

    def layout(self, width_px: int, height_px: int) -> Layout:
        """Choose the crop grid of an image, and its size on it.

        Raises:
            RequestRefused: one side would be shorter than 10 px, as in the original code.
        """
        if width_px < 1 or height_px < 1:
            raise RequestRefused(f"image of {width_px}x{height_px} px is empty")
        num_columns = math.ceil(width_px / self.crop_size_px)
        num_rows = math.ceil(height_px / self.crop_size_px)
        if num_columns * num_rows > self.max_crops:
            num_columns, num_rows = self._closest_grid(width_px, height_px)
        grid_width, grid_height = num_columns * self.crop_size_px, num_rows * self.crop_size_px
        # The products are taken in this order, and truncated, as in the original code.
        scale_x, scale_y = grid_width / width_px, grid_height / height_px
        if scale_x < scale_y:
            new_width, new_height = grid_width, int(height_px * scale_x)
        else:
            new_width, new_height = int(width_px * scale_y), grid_height
        if min(new_width, new_height) < MIN_SIDE_PX:
            raise RequestRefused(
                f"image of {width_px}x{height_px} px is too elongated: resized to"
                f" {new_width}x{new_height} px, below {MIN_SIDE_PX} px on one side"
            )
        return Layout(num_columns, num_rows, new_width, new_height)

    def _closest_grid(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Find the grid (columns, rows) of at most `max_crops` with the closest aspect ratio.

        Ties go to the larger grid if the image has more than half of its pixels.
        """
        aspect = width_px / height_px
        best, smallest = (1, 1), math.inf
        for columns, rows in _grids(self.max_crops):
            difference = abs(aspect - columns / rows)
            half_area = 0.5 * self.crop_size_px * self.crop_size_px * columns * rows
            if difference < smallest or (
                difference == smallest and width_px * height_px > half_area
            ):
                best, smallest = (columns, rows), difference
        return best

    def _count_rows(
        self, valid_width_px: int, valid_height_px: int, *, width_px: int, height_px: int
    ) -> int:
        cells = self.patches_per_side // 2
        used_columns = self.used_cells(valid_width_px, width_px)
        used_rows = self.used_cells(valid_height_px, height_px)
        # crops and their row ends, the separator, the global view and its row ends
        return used_rows * (used_columns + 1) + 1 + cells * (cells + 1)


def _grids(max_crops: int) -> list[tuple[int, int]]:
    """List all (columns, rows) of at most `max_crops` crops, fewest crops first."""
    grids = [
        (columns, rows)
        for columns in range(1, max_crops + 1)
        for rows in range(1, max_crops // columns + 1)
    ]
    return sorted(grids, key=math.prod)
