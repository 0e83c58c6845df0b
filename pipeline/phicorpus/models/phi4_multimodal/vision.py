"""Phi-4-multimodal's image encoder: SigLIP tower, 2x2 pooling, crop merge and projection.

Module and parameter names are the checkpoint's, below `model.embed_tokens_extend.image_embed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.model import Canvas
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.vision_config import SiglipConfig as TowerConfig
from phicorpus.models.vit import Layers, LayerShape, gelu_tanh

# The features are the output of the last layer but one: `hidden_states[-2]` in the original code.
LAYERS_UNUSED = 1


class Embeddings(nn.Module):
    """Patch embedding plus a position that follows the valid part of the crop."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.side = config.patches_per_side
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)

    def forward(self, crops: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Embed crops (n, 3, side, side) with valid patches (n, rows, columns) bool."""
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        rows = self._positions(valid[:, :, 0].sum(dim=1))
        columns = self._positions(valid[:, 0, :].sum(dim=1))
        positions = rows[:, :, None] * self.side + columns[:, None, :]
        return patches + self.position_embedding((positions * valid).flatten(1))

    def _positions(self, num_valid: torch.Tensor) -> torch.Tensor:
        """Spread `num_valid` (n,) positions evenly over the axis; shape (n, side)."""
        steps = torch.arange(self.side, device=num_valid.device, dtype=torch.float32)
        # The steps are float32 in the original too; which bin a step falls in depends on it.
        fractions = steps * (1.0 / num_valid.float()[:, None])
        edges = steps[1:] / self.side
        return torch.bucketize(fractions.clamp(max=1.0 - 1e-6), edges, right=True)


class Tower(nn.Module):
    """SigLIP up to its last layer but one; the pooling head is not built."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        shape = LayerShape(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            layer_norm_eps=config.layer_norm_eps,
            activation=gelu_tanh,
        )
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(shape, config.num_hidden_layers - LAYERS_UNUSED)

    def forward(self, crops: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Encode crops of one kind: all of them full, or all of them with padding.

        Args:
            crops: shape (n, 3, side, side), in [-1, 1].
            valid: shape (n, patch rows, patch columns), bool: True where a patch holds image.

        Returns:
            Features pooled over 2x2 patches, shape (n, cell rows, cell columns, hidden).
        """
        mask = None if bool(valid.all()) else valid.flatten(1)
        states = self.encoder(self.embeddings(crops, valid), mask)
        grid = states.transpose(1, 2).unflatten(2, (self.config.patches_per_side, -1))
        return functional.avg_pool2d(grid, kernel_size=2).permute(0, 2, 3, 1)


class ImageEncoder(nn.Module):
    """Canvases to feature rows in the decoder's space."""

    def __init__(
        self, config: TowerConfig, decoder_size: int, preparation: ImagePreparation
    ) -> None:
        super().__init__()
        self.preparation = preparation
        self.img_processor = Tower(config)
        self.img_projection = nn.Sequential(
            nn.Linear(config.hidden_size, decoder_size),
            nn.GELU(),
            nn.Linear(decoder_size, decoder_size),
        )
        self.glb_GN = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, config.hidden_size))

    def forward(self, canvases: Sequence[Canvas], batch_size: int) -> list[torch.Tensor]:
        """Encode canvases, crops of all of them together.

        Args:
            canvases: Made by this model's preparation.
            batch_size: Upper bound of the crops in one pass of the tower.

        Returns:
            One tensor (num_rows, decoder hidden) per canvas.
        """
        views = [self.views(canvas) for canvas in canvases]
        features = self.features(views, batch_size)
        rows = [self.merge(canvas, own) for canvas, own in zip(canvases, features, strict=True)]
        projected = self.img_projection(torch.cat(rows))
        return list(projected.split([len(own) for own in rows]))

    def views(self, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a canvas into crops on the device: the global view, then the grid, row by row.

        Returns:
            (crops, valid): shape (n, 3, side, side) float32 in [-1, 1], and (n, patch rows, patch
            columns) bool.
        """
        side, patch = self.preparation.crop_size_px, self.preparation.patch_size_px
        pixels = torch.tensor(canvas.pixels, device=self.glb_GN.device)
        image = pixels.permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
        overview = functional.interpolate(
            image[None], size=(side, side), mode="bicubic", align_corners=False
        )
        crops = image.unfold(1, side, side).unfold(2, side, side)
        crops = crops.permute(1, 2, 0, 3, 4).flatten(0, 1)
        _, height_px, width_px = image.shape
        valid = torch.ones(
            height_px // patch, width_px // patch, dtype=torch.bool, device=image.device
        )
        # A patch is padding only when it is padding entirely.
        valid[height_px // patch - (height_px - canvas.valid_height_px) // patch :] = False
        valid[:, width_px // patch - (width_px - canvas.valid_width_px) // patch :] = False
        patches = side // patch
        valid_crops = valid.unfold(0, patches, patches).unfold(1, patches, patches).flatten(0, 1)
        full = torch.ones_like(valid_crops[:1])
        return torch.cat([overview, crops]), torch.cat([full, valid_crops])

    def features(
        self, views: Sequence[tuple[torch.Tensor, torch.Tensor]], batch_size: int
    ) -> list[torch.Tensor]:
        """Encode the crops of all canvases; a crop that is padding entirely gets zeros, unread.

        Args:
            views: (crops, valid) of each canvas, as `views` gives them.
            batch_size: Upper bound of the crops in one pass of the tower.

        Returns:
            Per canvas (crops, cell rows, cell columns, tower hidden).
        """
        crops = torch.cat([crops for crops, _ in views])
        valid = torch.cat([valid for _, valid in views])
        cells = self.preparation.patches_per_side // 2
        size = (len(crops), cells, cells, self.glb_GN.shape[-1])
        features = torch.zeros(size, dtype=self.glb_GN.dtype, device=crops.device)
        for chosen in _batches(valid, batch_size):
            features[chosen] = self.img_processor(
                crops[chosen].to(self.glb_GN.dtype), valid[chosen]
            )
        return list(features.split([len(crops) for crops, _ in views]))

    def merge(self, canvas: Canvas, features: torch.Tensor) -> torch.Tensor:
        """Lay the crops of one canvas out as rows: grid, separator, global view.

        Args:
            canvas: The canvas that the features are of.
            features: shape (1 + crops, cell rows, cell columns, tower hidden).

        Returns:
            Rows before the projection, shape (num_rows, tower hidden).
        """
        side, preparation = self.preparation.crop_size_px, self.preparation
        height_px, width_px, _ = canvas.pixels.shape
        grid = features[1:].unflatten(0, (height_px // side, width_px // side))
        grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        used = grid[
            : preparation.used_cells(canvas.valid_height_px, height_px),
            : preparation.used_cells(canvas.valid_width_px, width_px),
        ]
        return torch.cat(
            [self._with_row_ends(used), self.glb_GN[0], self._with_row_ends(features[0])]
        )

    def _with_row_ends(self, grid: torch.Tensor) -> torch.Tensor:
        """Append the separator to each row of (rows, columns, hidden), and flatten."""
        ends = self.sub_GN[0].expand(len(grid), -1, -1)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)


def _batches(valid: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    """Group crops for the tower: full crops apart from padded ones, empty ones left out."""
    num_valid = valid.flatten(1).sum(dim=1)
    size = valid[0].numel()
    for kind in (num_valid == size, (num_valid > 0) & (num_valid < size)):
        yield from kind.nonzero()[:, 0].split(batch_size)
