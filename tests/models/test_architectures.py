"""Each architecture is one entry, from which everything else follows."""

import json
import pkgutil
from pathlib import Path

import pytest

from phicorpus.errors import CheckpointError
from phicorpus.models import architectures
from phicorpus.models.architectures import ARCHITECTURES, architecture_of
from phicorpus.models.catalog import CATALOG

FOLDERS = Path(architectures.__file__).parent


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_folder_has_its_name_and_a_loader(name: str) -> None:
    entry = ARCHITECTURES[name]

    assert (FOLDERS / entry.name).is_dir()
    assert entry.loader.startswith(f"phicorpus.models.{name}.")
    assert callable(pkgutil.resolve_name(entry.loader))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_it_encodes_is_bounded_and_only_that(name: str) -> None:
    entry = ARCHITECTURES[name]

    assert {*entry.segment_rows} == {*entry.modalities} - {"text"}
    assert ("vision" in entry.modalities) == (entry.preparation is not None)
    assert ("vision" in entry.modalities) == ("image" in entry.encoders)
    assert ("speech" in entry.modalities) == ("audio" in entry.encoders)


def test_each_published_model_is_of_one_of_them_for_what_it_is_said_to_serve() -> None:
    for published in CATALOG.values():
        entry = architecture_of(published.name, {"model_type": published.model_type})

        assert entry.modalities == published.modalities


def test_both_layouts_of_a_checkpoint_are_of_one_architecture() -> None:
    hub, saved = ({"model_type": "phi4mm"}, {"model_type": "phi4_multimodal"})

    assert architecture_of("a", hub) is architecture_of("b", saved)
    entry = architecture_of("a", hub)
    assert (entry.layout(hub), entry.layout(saved)) == ("hub", "transformers")


def test_another_architecture_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(CheckpointError) as refused:
        architecture_of("a model", json.loads('{"model_type": "llama"}'))

    assert str(refused.value) == (
        "a model: config.json has model_type 'llama'; supported:"
        " phi3, phi3_v, phi4_multimodal, phi4mm"
    )
