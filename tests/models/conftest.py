from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal
from phicorpus.models.random_checkpoint import write_tiny


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Resolved:
    return resolve(str(tiny_folder))


@pytest.fixture(scope="session")
def models(tiny: Resolved) -> dict[Modality, Phi4Multimodal]:
    loaded: dict[Modality, Phi4Multimodal] = {}
    for modality in tiny.modalities:
        model = load(tiny, modality=modality, device="cpu", encode_batch=3)
        assert isinstance(model, Phi4Multimodal)
        loaded[modality] = model
    return loaded
