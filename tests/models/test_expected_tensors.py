import json
from pathlib import Path

import pytest

from phicorpus.errors import CheckpointError
from phicorpus.models.checkpoint import Architecture
from phicorpus.models.expected_tensors import UNREAD, count, inventory, part_of, unread_layer
from tests.models.builders import all_tensors
from tests.models.test_full_size import PHI3_VISION

GOLDENS = Path(__file__).parents[1] / "goldens"


def read(architecture: Architecture, config: dict, tensors: dict) -> dict[str, tuple[int, ...]]:
    """The tensors that are read, adapters left out."""
    last = unread_layer(architecture, config)
    return {
        name.replace(".base_layer.", "."): tuple(shape)
        for name, shape in tensors.items()
        if ".lora_" not in name and not UNREAD.match(name) and not last.match(name)
    }


@pytest.mark.parametrize("architecture", ["phi3_vision", "phi4_multimodal"])
def test_the_inventory_is_what_the_original_code_has(architecture: Architecture) -> None:
    config = json.loads((GOLDENS / architecture / "config.json").read_text())
    tensors = json.loads((GOLDENS / architecture / "weights.json").read_text())["tensors"]

    assert inventory(architecture, config) == read(architecture, config, tensors)


def test_the_inventory_is_what_the_tiny_checkpoint_has(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    tensors = {name: value.shape for name, value in all_tensors(tiny_folder).items()}

    assert inventory("phi4_multimodal", config) == read("phi4_multimodal", config, tensors)


def test_the_inventory_of_the_published_model_has_its_bytes() -> None:
    shapes = inventory("phi3_vision", PHI3_VISION)
    layer = {name: shape for name, shape in shapes.items() if ".encoder.layers.0." in name}

    unread = count(iter(layer.values())) + 2 * 1024
    assert 2 * (count(iter(shapes.values())) + unread) == 8_293_242_880
    assert {part_of(name) for name in shapes} == {"decoder", "image"}


def test_a_config_without_sizes_is_named() -> None:
    with pytest.raises(CheckpointError, match="hidden_size"):
        inventory("phi3", {})
