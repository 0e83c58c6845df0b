import json
from pathlib import Path

import pytest

from phicorpus.errors import CheckpointError
from phicorpus.models.architectures import ARCHITECTURES, Architecture
from phicorpus.models.expected_tensors import count_elements
from tests.models.builders import all_tensors
from tests.models.test_full_size import PHI3_VISION

GOLDENS = Path(__file__).parents[1] / "goldens"


def read(architecture: Architecture, config: dict, tensors: dict) -> dict[str, tuple[int, ...]]:
    """The tensors that are read, adapters left out."""
    return {
        name.replace(".base_layer.", "."): tuple(shape)
        for name, shape in tensors.items()
        if ".lora_" not in name and not architecture.is_unread(name, config)
    }


@pytest.mark.parametrize("name", ["phi3_vision", "phi4_multimodal"])
def test_the_expected_tensors_are_those_of_the_original_code(name: str) -> None:
    architecture = ARCHITECTURES[name]
    config = json.loads((GOLDENS / name / "config.json").read_text())
    tensors = json.loads((GOLDENS / name / "weights.json").read_text())["tensors"]

    assert architecture.expected_tensors(config) == read(architecture, config, tensors)


def test_the_expected_tensors_are_those_of_the_tiny_checkpoint(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    tensors = {name: value.shape for name, value in all_tensors(tiny_folder).items()}

    phi4 = ARCHITECTURES["phi4_multimodal"]
    assert phi4.expected_tensors(config) == read(phi4, config, tensors)


def test_the_expected_tensors_of_the_published_model_have_its_bytes() -> None:
    architecture = ARCHITECTURES["phi3_vision"]
    shapes = architecture.expected_tensors(PHI3_VISION)
    layer = {name: shape for name, shape in shapes.items() if ".encoder.layers.0." in name}

    unread = count_elements(layer.values()) + 2 * 1024
    assert 2 * (count_elements(shapes.values()) + unread) == 8_293_242_880
    assert {architecture.part_of(name) for name in shapes} == {"decoder", "image"}


def test_a_config_without_sizes_is_named() -> None:
    with pytest.raises(CheckpointError, match="hidden_size"):
        ARCHITECTURES["phi3"].expected_tensors({})
