"""The shapes of the two vision towers, fixed in the original code. No torch.

A small checkpoint overrides them in its config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from phicorpus.errors import CheckpointError

Json = Mapping[str, Any]
_FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """A vision transformer's shape."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a crop."""
        return self.image_size // self.patch_size

    def crop_bytes(self, itemsize: int) -> int:
        """Estimate the memory that encoding holds for each crop.

        Args:
            itemsize: Bytes per number: 4 for float32, 2 for the 16-bit types.
        """
        per_patch = (6 * self.hidden_size + 2 * self.intermediate_size) * itemsize
        pixels = 3 * self.image_size**2 * (_FLOAT32 + itemsize)
        return self.patches_per_side**2 * per_patch + pixels

    @classmethod
    def overridden(cls, overrides: Json, key: str) -> Self:
        """Put a checkpoint's overrides over the defaults.

        Args:
            overrides: By field; `model_type` is no shape.
            key: Where config.json has them.

        Raises:
            CheckpointError: an override that a tower does not know.
        """
        given = {
            name: value
            for name, value in overrides.items()
            if name != "model_type" and value is not None
        }
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise CheckpointError(f"config.json: {key} has unknown keys {unknown}")
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig(TowerConfig):
    """CLIP ViT-L/14 at 336 px, of the Phi-3 vision models."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 336
    patch_size: int = 14
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_json(cls, config: Json) -> Self:
        """Read config.json, which overrides under `img_processor.clip_overrides`."""
        section = config.get("img_processor") or {}
        return cls.overridden(section.get("clip_overrides") or {}, "clip_overrides")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiglipConfig(TowerConfig):
    """SigLIP so400m/14 at 448 px, of Phi-4-multimodal."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_json(cls, config: Json) -> Self:
        """Read config.json, which overrides under `vision_tiny_overrides`."""
        return cls.overridden(config.get("vision_tiny_overrides") or {}, "vision_tiny_overrides")
