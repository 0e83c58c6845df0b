"""The name `tiny` stands for the trained checkpoint in the package, in the hub's layout."""

import json
from pathlib import Path

from safetensors import safe_open

from phicorpus.models.checkpoint import SHIPPED, resolve


def test_tiny_is_the_shipped_checkpoint_for_every_modality() -> None:
    resolved = resolve("tiny")
    assert resolved.path == SHIPPED["tiny"]
    assert resolved.modalities == ("vision", "speech", "text")
    assert resolved.revision is None


def test_it_is_told_by_its_content_as_any_folder_is(tiny_folder: Path) -> None:
    digest = resolve("tiny").digest
    assert digest == resolve(str(SHIPPED["tiny"])).digest
    assert digest != resolve(str(tiny_folder)).digest


def test_the_shipped_weights_are_small_half_precision_and_told_by_their_index() -> None:
    folder = SHIPPED["tiny"]
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    found: dict[str, str] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                found[name] = shard.name
                is_exact = name.rpartition(".")[2] in {"global_mean", "global_invstd"}
                assert weights.get_slice(name).get_dtype() == ("F32" if is_exact else "BF16")
    assert found == index["weight_map"]
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 30 * 2**20
