"""Other ways in which a checkpoint comes: transformers' layout, adapters in folders or on top."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from phicorpus.engine.backend import phi_backend
from phicorpus.errors import CheckpointError
from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.inspection import examine
from phicorpus.models.model import Model
from phicorpus.models.phi3_vision.layout import EMBEDDING, SECOND_NAME
from phicorpus.models.phi3_vision.model import Phi3Vision
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal
from phicorpus.models.phi4_multimodal.transformers_layout import hub_name, transformers_name
from phicorpus.parity.pack import Pack
from tests.builders import a_config
from tests.models.builders import (
    Arrays,
    adapter_halves,
    all_tensors,
    split_adapters,
    write_adapter,
    write_native,
)

pytestmark = pytest.mark.slow

PHI3_PACK = Path(__file__).parents[1] / "goldens/phi3_vision"
DOWN = "model.layers.1.mlp.down_proj"  # 64 x 96 in the tiny checkpoint
QUERY = "model.embed_tokens_extend.audio_embed.encoder.encoders.0.self_attn.linear_q"


def load_for(folder: Path | str, modality: Any, **settings: Any) -> Model:
    return load(resolve(str(folder), **settings), modality=modality, device="cpu")


def states(model: Model) -> dict[str, torch.Tensor]:
    assert isinstance(model, Phi4Multimodal)
    parts = {"decoder": model.decoder, "image": model.image_encoder, "audio": model.audio_encoder}
    return {f"{p}.{n}": v for p, part in parts.items() for n, v in part.state_dict().items()}


def assert_same_weights(one: Model, other: Model) -> None:
    left, right = states(one), states(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if value.is_meta:
            assert right[name].is_meta
        else:
            torch.testing.assert_close(value, right[name], rtol=0, atol=0)


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_a_checkpoint_in_the_native_layout_is_the_same_model(
    tiny_folder: Path, tmp_path: Path, modality: str
) -> None:
    native = write_native(tiny_folder, tmp_path / "native")

    assert resolve(str(native)).preparation == resolve(str(tiny_folder)).preparation
    assert_same_weights(load_for(native, modality), load_for(tiny_folder, modality))


def test_names_of_both_layouts_map_onto_each_other(tiny_folder: Path) -> None:
    base, _ = split_adapters(all_tensors(tiny_folder))

    natives = {name: transformers_name(name) for name in base}

    assert len(set(natives.values())) == len(base)
    assert sum(name != native for name, native in natives.items()) > 40
    assert all(hub_name(native) == name for name, native in natives.items())
    assert all(hub_name(name) == name for name in base)


@pytest.fixture(scope="module")
def phi3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi3_vision")
    Pack.read(PHI3_PACK).write_checkpoint(folder)
    return folder


@pytest.mark.parametrize(
    "saved",
    [
        lambda whole: whole | {SECOND_NAME: whole[EMBEDDING].copy()},
        lambda whole: {SECOND_NAME if k == EMBEDDING else k: v for k, v in whole.items()},
        lambda whole: {name.replace(".vision_model.", "."): v for name, v in whole.items()},
    ],
    ids=["the embedding twice", "under its second name", "CLIP without a level"],
)
def test_a_phi_3_vision_is_the_same_model_however_training_saved_it(
    phi3_folder: Path, tmp_path: Path, saved: Callable[[Arrays], Arrays]
) -> None:
    folder = Path(shutil.copytree(phi3_folder, tmp_path / "saved"))
    save_file(saved(all_tensors(phi3_folder)), folder / "model.safetensors")

    found = examine(str(folder))
    model, original = load_for(folder, "vision"), load_for(phi3_folder, "vision")

    assert not found.problems
    assert isinstance(model, Phi3Vision)
    assert isinstance(original, Phi3Vision)
    for part in ("decoder", "image_encoder"):
        ours, theirs = (getattr(m, part).state_dict() for m in (model, original))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_adapters_are_found_in_their_folders_when_they_are_not_in_the_shards(
    tiny_folder: Path, tmp_path: Path, modality: str
) -> None:
    folder = tmp_path / "apart"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny_folder / name, folder)
    base, adapters = split_adapters(all_tensors(tiny_folder))
    save_file(base, folder / "model.safetensors")
    sizes = {"vision": 8, "speech": 12}
    for name, tensors in adapters.items():
        write_adapter(folder / f"{name}-lora", tensors, r=sizes[name], lora_alpha=2 * sizes[name])

    assert_same_weights(load_for(folder, modality), load_for(tiny_folder, modality))


def test_a_native_checkpoint_without_its_adapters_is_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    native = write_native(tiny_folder, tmp_path / "native")
    shutil.rmtree(native / "speech-lora")

    with pytest.raises(CheckpointError, match="speech_lora"):
        load_for(native, "speech")


def test_an_adapter_that_forgot_a_layer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    native = write_native(tiny_folder, tmp_path / "native")
    _, adapters = split_adapters(all_tensors(tiny_folder))
    some = {key: value for key, value in adapters["speech"].items() if DOWN not in key}
    shutil.rmtree(native / "speech-lora")
    write_adapter(native / "speech-lora", some, r=12, lora_alpha=24)

    with pytest.raises(CheckpointError, match=r"misshapen: .*layers\.1\.mlp\.down_proj.*speech"):
        load_for(native, "speech")


def test_the_digest_follows_the_adapter_folders(tiny_folder: Path, tmp_path: Path) -> None:
    native = write_native(tiny_folder, tmp_path / "native")
    before = resolve(str(native)).digest
    config = native / "vision-lora/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1}))

    assert resolve(str(native)).digest != before


def test_adapters_of_the_user_are_merged_on_top(tiny_folder: Path, tmp_path: Path) -> None:
    halves = adapter_halves(DOWN, (64, 96)) | adapter_halves(QUERY, (64, 64))
    first = write_adapter(tmp_path / "first", halves, lora_alpha=6)
    second = write_adapter(
        tmp_path / "second", adapter_halves(DOWN, (64, 96), seed=1), use_rslora=True
    )
    before = states(load_for(tiny_folder, "speech"))

    after = states(load_for(tiny_folder, "speech", adapters=[str(first), str(second)]))

    change = 1.5 * halves[f"{DOWN}.lora_B"] @ halves[f"{DOWN}.lora_A"]
    other = adapter_halves(DOWN, (64, 96), seed=1)
    change += 8 / 4**0.5 * other[f"{DOWN}.lora_B"] @ other[f"{DOWN}.lora_A"]
    down, query = f"decoder.{DOWN}.weight", "audio.encoder.encoders.0.self_attn.linear_q.weight"
    found = after[down] - before[down]
    np.testing.assert_allclose(found.numpy(), change, atol=1e-4)
    changed = [
        name
        for name, value in before.items()
        if not value.is_meta and not torch.equal(value, after[name])
    ]
    assert sorted(changed) == sorted([down, query])


def test_an_adapter_trained_on_the_native_classes_fits_too(
    tiny_folder: Path, tmp_path: Path
) -> None:
    halves = adapter_halves(QUERY, (64, 64))
    native = {
        transformers_name(f"{k}.weight").removesuffix(".weight"): v for k, v in halves.items()
    }
    ours = write_adapter(tmp_path / "ours", halves)
    theirs = write_adapter(tmp_path / "theirs", native)

    assert native.keys() != halves.keys()
    assert_same_weights(
        load_for(tiny_folder, "speech", adapters=[str(ours)]),
        load_for(tiny_folder, "speech", adapters=[str(theirs)]),
    )


@pytest.mark.parametrize(
    ("module", "shape", "config", "complaint"),
    [
        ("model.layers.9.mlp.down_proj", (64, 96), {}, r"lacks: model\.layers\.9"),
        (DOWN, (64, 64), {}, "another shape: model"),
        ("lm_head", (320, 64), {}, r"lacks: lm_head"),
        (DOWN, (64, 96), {"r": 8}, "rank is not 8"),
        (DOWN, (64, 96), {"use_dora": True}, "use_dora"),
        (DOWN, (64, 96), {"bias": "all"}, "bias"),
        (DOWN, (64, 96), {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (DOWN, (64, 96), {"peft_type": "IA3"}, "IA3"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tiny_folder: Path,
    tmp_path: Path,
    module: str,
    shape: tuple[int, int],
    config: dict[str, object],
    complaint: str,
) -> None:
    adapter = write_adapter(tmp_path / "adapter", adapter_halves(module, shape), **config)

    with pytest.raises(CheckpointError, match=complaint):
        load_for(tiny_folder, "text", adapters=[str(adapter)])


def test_an_adapter_that_is_a_pickle_is_not_read(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", adapter_halves(DOWN, (64, 96)))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    with pytest.raises(CheckpointError, match="pickles are not read"):
        load_for(tiny_folder, "text", adapters=[str(adapter)])


def test_an_adapter_changes_the_identity_of_a_job(
    tiny: Resolved, tiny_folder: Path, tmp_path: Path
) -> None:
    one, two = (
        write_adapter(tmp_path / name, adapter_halves(DOWN, (64, 96), seed=seed))
        for seed, name in enumerate(("one", "two"))
    )
    identities = {
        phi_backend(
            a_config(tmp_path, model={"name": str(tiny_folder), "adapters": adapters})
        ).identity
        for adapters in ([], [str(one)], [str(two)], [str(one), str(two)])
    }

    assert len(identities) == 4
    assert tiny.digest in identities


def test_an_adapter_neither_here_nor_on_the_hub_is_named(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(CheckpointError, match="/no/such/folder"):
        resolve(str(tiny_folder), adapters=["/no/such/folder"])


LOAD_AND_MEASURE = """
import json, resource, sys
import torch, transformers
from transformers import Phi3ForCausalLM
from phicorpus.models.checkpoint import load, resolve
from phicorpus.models.phi4_multimodal import model as phi4_multimodal
tiny = load(resolve(sys.argv[1]), modality="text", device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load(resolve(sys.argv[2]), modality="text", device="cpu", dtype="float32")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(value.numel() * value.element_size() for value in model.decoder.state_dict().values())
print(json.dumps({"grown": (after - before) * 1024, "model": size}))
"""


def test_loading_needs_little_more_memory_than_the_model(tiny_folder: Path, tmp_path: Path) -> None:
    num_layers, hidden, shard_bytes = 6, 1024, 0
    folder = tmp_path / "large"
    folder.mkdir()
    shutil.copy(tiny_folder / "tokenizer.json", folder)
    config = json.loads((tiny_folder / "config.json").read_text())
    changes = {"model_type": "phi3", "hidden_size": hidden, "intermediate_size": 3 * hidden,
               "num_attention_heads": 8, "num_key_value_heads": 8, "rope_scaling": None,
               "num_hidden_layers": num_layers}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    index: dict[str, str] = {}
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}."
        shapes = {"self_attn.qkv_proj": (3 * hidden, hidden), "self_attn.o_proj": (hidden, hidden),
                  "mlp.gate_up_proj": (6 * hidden, hidden), "mlp.down_proj": (hidden, 3 * hidden),
                  "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}  # fmt: skip
        shard: Arrays = {f"{prefix}{n}.weight": np.ones(s, np.float16) for n, s in shapes.items()}
        if layer == 0:
            shard["model.embed_tokens.weight"] = np.ones((320, hidden), np.float16)
            shard["model.norm.weight"] = np.ones(hidden, np.float16)
        file = f"model-{layer}.safetensors"
        save_file(shard, folder / file)
        index |= dict.fromkeys(shard, file)
        shard_bytes = max(shard_bytes, (folder / file).stat().st_size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    arguments = [sys.executable, "-c", LOAD_AND_MEASURE, str(tiny_folder), str(folder)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)  # noqa: S603 - our own code

    measured = json.loads(done.stdout)
    assert measured["model"] > 300e6
    assert measured["grown"] <= measured["model"] + 1.2 * shard_bytes
