"""The image encoder by its config alone: tensors, and the memory they take. No torch."""

from __future__ import annotations

import re

from phicorpus.models.expected_tensors import (
    Json,
    Shapes,
    norm_tensors,
    projection_tensors,
    tower_tensors,
    unread_tower_tensors,
)
from phicorpus.models.phi3_vision.layout import IMAGE_PREFIX
from phicorpus.models.vision_config import ClipConfig


def image_tensors(config: Json) -> Shapes:
    """List the tensors of the image encoder."""
    hidden, tower = config["hidden_size"], ClipConfig.from_json(config)
    size, patch = tower.hidden_size, tower.patch_size
    prefix = IMAGE_PREFIX + "img_processor.vision_model."
    yield IMAGE_PREFIX + "glb_GN", (1, 1, 4 * size)
    yield IMAGE_PREFIX + "sub_GN", (1, 1, 1, 4 * size)
    yield prefix + "embeddings.class_embedding", (size,)
    yield prefix + "embeddings.patch_embedding.weight", (size, 3, patch, patch)
    positions = (tower.image_size // patch) ** 2 + 1
    yield prefix + "embeddings.position_embedding.weight", (positions, size)
    yield from norm_tensors(prefix + "pre_layrnorm", size)
    yield from tower_tensors(prefix, tower)
    yield from projection_tensors(IMAGE_PREFIX + "img_projection", hidden, 4 * size)


def unread_image_tensors(config: Json) -> re.Pattern[str]:
    """Match the image encoder's tensors that no answer depends on."""
    return unread_tower_tensors(ClipConfig.from_json(config))


def crop_bytes(config: Json, itemsize: int) -> int:
    """Estimate the memory that encoding holds for each crop."""
    return ClipConfig.from_json(config).crop_bytes(itemsize)
