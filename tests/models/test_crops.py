import json
import shutil
from pathlib import Path

import pytest

from phicorpus.engine.backend import phi_backend
from tests.builders import a_config

PACK = Path(__file__).parents[1] / "goldens/phi3_vision"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "microsoft/Phi-3.5-vision-instruct"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The descriptions of Phi-3.5-vision, as the hub's cache has them."""
    repository = tmp_path / "models--microsoft--Phi-3.5-vision-instruct"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(PACK / name, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"num_crops": 4}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return folder


@pytest.mark.parametrize(("images", "expected"), [({}, 16), ({"max_crops": 7}, 7)])
def test_phi_3_5_vision_cuts_the_one_image_of_a_request_as_its_card_says(
    folder: Path, tmp_path: Path, images: dict[str, int], expected: int
) -> None:
    backend = phi_backend(a_config(tmp_path, model=NAME, images=images))

    assert folder.is_dir()
    assert backend.preparation is not None
    assert backend.preparation.max_crops == expected
    assert backend.identity == (COMMIT if images else f"{COMMIT}:16")
