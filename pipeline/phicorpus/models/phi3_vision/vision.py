"""Phi-3-vision's image encoder: CLIP tower, 2x2 merge, crop merge and projection.

Module and parameter names are the checkpoint's, below `model.vision_embed_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.model import Canvas
from phicorpus.models.phi3_vision.image import ImagePreparation
from phicorpus.models.vision_config import ClipConfig as TowerConfig
from phicorpus.models.vit import Layers, LayerShape, quick_gelu

# The features are the output of the last layer but one: `hidden_states[-2]` in the original code.
LAYERS_UNUSED = 1
# CLIP's own normalisation.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
MERGE = 2


class Embeddings(nn.Module):
    """Class token, patch embedding and positions."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=False,
        )
        self.position_embedding = nn.Embedding(config.patches_per_side**2 + 1, config.hidden_size)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Embed crops (n, 3, side, side); shape (n, 1 + patches, hidden), class token first."""
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(crops), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class VisionModel(nn.Module):
    """CLIP's vision side up to its last layer but one."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        shape = LayerShape(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            layer_norm_eps=config.layer_norm_eps,
            activation=quick_gelu,
        )
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Layers(shape, config.num_hidden_layers - LAYERS_UNUSED)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Encode crops (n, 3, side, side) to features (n, patches, hidden)."""
        return self.encoder(self.pre_layrnorm(self.embeddings(crops)))[:, 1:]


class Tower(nn.Module):
    """The level that the checkpoint puts around CLIP's vision side."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Encode crops (n, 3, side, side) to features (n, patches, hidden)."""
        return self.vision_model(crops)


class ImageEncoder(nn.Module):
    """Canvases to feature rows in the decoder's space."""

    def __init__(
        self, config: TowerConfig, decoder_size: int, preparation: ImagePreparation
    ) -> None:
        super().__init__()
        size = MERGE * MERGE * config.hidden_size
        self.preparation = preparation
        self.img_processor = Tower(config)
        self.img_projection = nn.Sequential(
            nn.Linear(size, decoder_size), nn.GELU(), nn.Linear(decoder_size, decoder_size)
        )
        self.glb_GN = nn.Parameter(torch.empty(1, 1, size))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, size))

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

    def views(self, canvas: Canvas) -> torch.Tensor:
        """Cut a canvas into crops on the device: the global view, then the grid, row by row.

        Returns:
            shape (n, 3, side, side), float32, normalised.
        """
        side = self.preparation.crop_size_px
        pixels = torch.tensor(canvas.pixels, device=self.glb_GN.device)
        mean, deviation = (
            torch.tensor(values, device=pixels.device)[:, None, None]
            for values in (MEAN, DEVIATION)
        )
        image = (pixels.permute(2, 0, 1).float().div(255) - mean) / deviation
        overview = functional.interpolate(
            image[None], size=(side, side), mode="bicubic", align_corners=False
        )
        crops = image.unfold(1, side, side).unfold(2, side, side)
        return torch.cat([overview, crops.permute(1, 2, 0, 3, 4).flatten(0, 1)])

    def features(self, views: Sequence[torch.Tensor], batch_size: int) -> list[torch.Tensor]:
        """Encode the crops of all canvases; per canvas (crops, patches, tower hidden)."""
        crops = torch.cat(list(views)).to(self.glb_GN.dtype)
        features = torch.cat([self.img_processor(batch) for batch in crops.split(batch_size)])
        return list(features.split([len(own) for own in views]))

    def merge(self, canvas: Canvas, features: torch.Tensor) -> torch.Tensor:
        """Lay the crops of one canvas out as rows: grid, separator, global view.

        Args:
            canvas: The canvas that the features are of.
            features: shape (1 + crops, patches, tower hidden).

        Returns:
            Rows before the projection, shape (num_rows, 4 * tower hidden).
        """
        height_px, width_px, _ = canvas.pixels.shape
        rows, columns = (size // self.preparation.crop_size_px for size in (height_px, width_px))
        grid = self._grid(features[1:].unflatten(0, (rows, columns)))
        overview = self._grid(features[:1].unflatten(0, (1, 1)))
        return torch.cat([grid, self.glb_GN[0], overview])

    def _grid(self, crops: torch.Tensor) -> torch.Tensor:
        """Join 2x2 patches, lay crops (rows, columns, patches, hidden) out, end each row."""
        cells = self.preparation.crop_size_px // self.preparation.patch_size_px // MERGE
        parts = crops.unflatten(2, (cells, MERGE, cells, MERGE))
        # crop row, cell row, crop column, cell column, then the four patches of a cell
        grid = parts.permute(0, 2, 1, 4, 3, 5, 6).flatten(4).flatten(2, 3).flatten(0, 1)
        ends = self.sub_GN[0].expand(len(grid), -1, -1)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)
