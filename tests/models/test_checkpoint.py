import importlib.util
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from phicorpus.errors import CheckpointError
from phicorpus.models.checkpoint import Resolved, load, resolve
from phicorpus.models.inspection import examine
from phicorpus.models.random_checkpoint import write_tiny

pytestmark = pytest.mark.slow

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
QKV = "model.layers.0.self_attn.qkv_proj"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def rewrite(folder: Path, add: Mapping[str, np.ndarray] | None = None, drop: str = "") -> None:
    """Change the second shard, and the index with it."""
    shard = load_file(folder / SECOND) | dict(add or {})
    shard.pop(drop, None)
    save_file(shard, folder / SECOND)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].pop(drop, None)
    index["weight_map"] |= dict.fromkeys(shard, SECOND)
    (folder / INDEX).write_text(json.dumps(index))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def load_text(folder: Path) -> None:
    load(resolve(str(folder)), modality="text", device="cpu")


def test_a_folder_is_described_without_torch(tiny_folder: Path) -> None:
    code = (
        "import sys; from phicorpus.models.checkpoint import resolve;"
        "import phicorpus.models.catalog, phicorpus.models.random_checkpoint;"
        f"resolve({str(tiny_folder)!r}).preparation.num_rows_of_size(10, 10);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code


def test_what_is_resolved_travels_and_names_everything(tiny: Resolved) -> None:
    travelled = pickle.loads(pickle.dumps(tiny))  # noqa: S301 - our own bytes

    assert travelled == tiny
    assert tiny.modalities == ("vision", "speech", "text")
    assert (tiny.architecture, tiny.revision) == ("phi4_multimodal", None)
    assert tiny.preparation is not None
    assert tiny.preparation.num_rows_of_size(224, 224) == 145


def test_the_digest_follows_the_content(folder: Path, tiny: Resolved) -> None:
    assert resolve(str(folder)).digest == tiny.digest

    change_config(folder, rms_norm_eps=1e-6)
    changed = resolve(str(folder)).digest
    rewrite(folder, {"model.layers.0.input_layernorm.weight": np.zeros(64, "f4")})

    assert len({tiny.digest, changed, resolve(str(folder)).digest}) == 3


def test_a_single_file_loads_like_shards(folder: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, single)
    save_file(load_file(folder / FIRST) | load_file(folder / SECOND), single / "model.safetensors")

    one, many = (
        load(resolve(str(path)), modality="speech", device="cpu") for path in (single, folder)
    )

    for left, right in zip(one.decoder.parameters(), many.decoder.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_adapter_is_merged_with_its_scale(folder: Path) -> None:
    change_config(folder, speech_lora={"r": 12, "lora_alpha": 18})
    shard = load_file(folder / SECOND)
    low, high = (shard[f"{QKV}.lora_{half}.speech.weight"] for half in "AB")
    expected = shard[f"{QKV}.base_layer.weight"] + 1.5 * high @ low

    model = load(resolve(str(folder)), modality="speech", device="cpu")

    merged = model.decoder.get_parameter(QKV + ".weight")
    np.testing.assert_allclose(merged.numpy(), expected, atol=1e-5)


def test_weights_are_cast_once_and_the_normalisation_is_not(tiny: Resolved) -> None:
    model = load(tiny, modality="speech", device="cpu", dtype="bfloat16")

    assert {value.dtype for value in model.decoder.parameters()} == {torch.bfloat16}
    assert model.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    audio = model.audio_encoder  # type: ignore[attr-defined] - of this architecture
    assert audio.encoder.encoder_embedding.global_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("drop", "complaint"),
    [
        ("model.layers.1.mlp.down_proj.base_layer.weight", "places without a tensor"),
        (f"{QKV}.lora_A.vision.weight", r"adapter parts missing or misshapen: .*\(vision\)"),
        (f"{QKV}.base_layer.weight", r"without a place: .*lora_A"),
    ],
)
def test_a_missing_tensor_is_named_whatever_the_modality(
    folder: Path, drop: str, complaint: str
) -> None:
    rewrite(folder, drop=drop)

    with pytest.raises(CheckpointError, match=complaint):
        load_text(folder)


def test_a_checkpoint_that_forgot_its_adapters_is_refused(folder: Path) -> None:
    shard = load_file(folder / SECOND)
    plain = {
        name.replace(".base_layer.", "."): value
        for name, value in shard.items()
        if ".lora_" not in name
    }
    one = load_file(folder / FIRST) | plain
    save_file(one, folder / "model.safetensors")
    (folder / INDEX).unlink()

    with pytest.raises(CheckpointError, match="tensors without their adapters"):
        load_text(folder)


def test_an_adapter_of_another_rank_than_the_config_says_is_refused(folder: Path) -> None:
    change_config(folder, vision_lora={"r": 16, "lora_alpha": 32})

    with pytest.raises(CheckpointError, match=r"misshapen: .*rank 16"):
        load_text(folder)


def test_a_tensor_that_is_there_twice_is_refused(folder: Path) -> None:
    rewrite(folder, {f"{QKV}.weight": np.zeros((128, 64), "f4")})

    with pytest.raises(CheckpointError, match=r"without a place: .*qkv_proj"):
        load_text(folder)


def test_a_tensor_without_a_place_is_named(folder: Path) -> None:
    rewrite(folder, {"model.layers.0.mystery.weight": np.zeros(3, "f4")})

    with pytest.raises(CheckpointError, match=r"without a place: model\.layers\.0\.mystery"):
        load_text(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    rewrite(folder, {"model.layers.0.input_layernorm.weight": np.zeros(63, "f4")})

    with pytest.raises(CheckpointError, match=r"shapes that differ: .*\[63\] instead of \[64\]"):
        load_text(folder)


def test_the_distance_bias_has_to_fit_the_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["audio_processor"]["config"]["relative_attention_bias_args"]["t5_bias_max_distance"] = (
        1000
    )
    change_config(folder, **config)

    with pytest.raises(CheckpointError, match=r"bias_values.* instead of \[2000, 4\]"):
        load_text(folder)


def test_pickles_are_never_read(folder: Path) -> None:
    for name in (FIRST, SECOND, INDEX):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")

    with pytest.raises(CheckpointError, match="pickles only"):
        resolve(str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()

    with pytest.raises(CheckpointError, match=f"lacks shards that its index names: {SECOND}"):
        resolve(str(folder))


def test_an_index_that_points_outside_the_folder_is_refused(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    shutil.copy(folder / FIRST, folder.parent / "elsewhere.safetensors")

    with pytest.raises(CheckpointError, match="lacks shards"):
        resolve(str(folder))


def test_a_shard_cut_short_is_named(folder: Path) -> None:
    os.truncate(folder / SECOND, 10_000)
    with pytest.raises(CheckpointError, match="cut short"):
        load_text(folder)

    os.truncate(folder / SECOND, 500_000)
    with pytest.raises(CheckpointError, match="cut short"):
        load_text(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"vision_lora": None}, "vision_lora needs r and lora_alpha"),
        ({"rope_scaling": {"type": "yarn"}}, "rotary embedding of type 'yarn'"),
        ({"hidden_size": None}, "config.json lacks hidden_size"),
        ({"audio_processor": {}}, "audio_processor lacks 'config'"),
        ({"vision_tiny_overrides": {"colour": 1}}, r"unknown keys \['colour'\]"),
        ({"embd_layer": {}}, "do not fit a vision tower"),
    ],
)
def test_a_config_of_something_else_is_refused(
    folder: Path, changes: dict[str, object], complaint: str
) -> None:
    change_config(folder, **changes)

    with pytest.raises(CheckpointError, match=complaint):
        load(resolve(str(folder)), modality="vision", device="cpu")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"partial_rotary_factor": None}, r"6 short_factor for 8 frequencies"),
        ({"rope_scaling": {"type": "longrope"}}, "no short_factor for 6 frequencies"),
        ({"rope_scaling": "longrope"}, "expected an object"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_attention_heads": 0}, "expected numbers above 0"),
    ],
)
def test_a_decoder_that_is_not_phi_s_is_refused_before_any_worker_starts(
    folder: Path, changes: dict[str, object], complaint: str
) -> None:
    change_config(folder, **changes)

    with pytest.raises(CheckpointError, match=complaint):
        resolve(str(folder))
    (problem,) = examine(str(folder)).problems
    assert re.search(complaint, problem)


@pytest.mark.parametrize(
    "entries", [[1], {"a": 1}, {"a": {"shape": [1], "dtype": "F32"}}, {"a": {"data_offsets": [0]}}]
)
def test_a_damaged_header_of_a_shard_is_named(folder: Path, entries: object) -> None:
    header = json.dumps(entries).encode()
    (folder / SECOND).write_bytes(struct.pack("<Q", len(header)) + header)

    with pytest.raises(CheckpointError, match=f"{SECOND}: its safetensors header is damaged"):
        load_text(folder)


def test_a_tokenizer_without_the_special_tokens_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext11|>", "<|sound|>"))

    with pytest.raises(CheckpointError, match=r"<\|endoftext11\|> or <\|audio\|>"):
        load_text(folder)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")

    with pytest.raises(CheckpointError, match="not a tokenizer definition"):
        load_text(folder)


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed"
)
def test_an_attention_that_is_not_installed_is_named(tiny: Resolved) -> None:
    with pytest.raises(CheckpointError, match="attention 'flash_attention_2' is not installed"):
        load(tiny, modality="text", device="cpu", attention="flash")


def test_a_device_that_is_not_there_is_named(tiny: Resolved) -> None:
    with pytest.raises(CheckpointError, match="'npu' is not available"):
        load(tiny, modality="text", device="npu")


def test_a_hub_name_that_is_neither_cached_nor_reachable_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match=r"config\.json of phicorpus/nowhere"):
        resolve("phicorpus/nowhere")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub name"):
        resolve("not a name")
    with pytest.raises(CheckpointError, match="did you mean microsoft/Phi-4-multimodal-instruct"):
        resolve("microsoft/Phi-4-multimodal-instrct")
    with pytest.raises(CheckpointError, match=r"did you mean tiny.*comes with the package"):
        resolve("tinny")


def test_a_hub_name_is_resolved_from_the_cache_to_its_commit(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--phicorpus--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    resolved = resolve("phicorpus/tiny")

    assert (resolved.revision, resolved.digest, resolved.path) == (commit, commit, None)
    assert load(resolved, modality="text", device="cpu").name == "phicorpus/tiny"


def test_the_tiny_checkpoint_is_the_same_for_the_same_seed(tiny: Resolved, tmp_path: Path) -> None:
    write_tiny(tmp_path / "same", seed=1)
    write_tiny(tmp_path / "other", seed=2)

    assert resolve(str(tmp_path / "same")).digest == tiny.digest
    assert resolve(str(tmp_path / "other")).digest != tiny.digest
    assert sum(file.stat().st_size for file in (tmp_path / "same").iterdir()) < 5_000_000


ABSURD: tuple[object, ...] = (
    0,
    -1,
    10**7,
    10**30,
    1e308,
    float("nan"),
    True,
    "x",
    "",
    [],
    {},
    [None],
    None,
)


def paths_of(config: Mapping[str, Any], *before: str) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths_of(value, *before, key)


@pytest.mark.parametrize(
    "file", ["config.json", "preprocessor_config.json", "generation_config.json"]
)
def test_no_value_of_a_description_ends_in_anything_but_a_named_error(
    folder: Path, file: str
) -> None:
    whole = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    whole = whole or {"eos_token_id": 3, "dynamic_hd": 4}
    names = {"model_type"}  # another architecture is another test's
    unnamed: list[tuple[tuple[str, ...], object, str]] = []

    for path in paths_of(whole):
        for value in ABSURD:
            if path[0] in names:
                continue
            changed = json.loads(json.dumps(whole))
            section = reduce(lambda part, key: part[key], path[:-1], changed)
            section[path[-1]] = value
            (folder / file).write_text(json.dumps(changed))
            try:
                resolve(str(folder))
                examine(str(folder))
            except CheckpointError:
                continue
            except Exception as error:  # noqa: BLE001 - what this test looks for
                unnamed.append((path, value, repr(error)))

    assert unnamed == []


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rope_theta": 0}),
        ("config.json", {"rope_theta": -1.0}),
        ("config.json", {"eos_token_id": -1}),
        ("config.json", {"eos_token_id": [7, "x"]}),
        ("config.json", {"sliding_window": -1}),
        ("config.json", {"original_max_position_embeddings": 0}),
        ("config.json", {"num_hidden_layers": 10**7}),
        ("config.json", {"partial_rotary_factor": 2}),
        ("config.json", {"audio_processor": "x"}),
        ("config.json", {"vision_lora": {"r": 8, "lora_alpha": "x"}}),
        ("config.json", {"hidden_size": 65}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("preprocessor_config.json", {"dynamic_hd": 0}),
    ],
)
def test_a_value_that_would_load_and_answer_nonsense_is_named_when_the_job_is_planned(
    folder: Path, file: str, changes: dict[str, object]
) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))

    with pytest.raises(CheckpointError, match=f"{file}.*{next(iter(changes))}"):
        resolve(str(folder))


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"shape": [4], "dtype": "F32", "data_offsets": [-16, 0]}},
        {"a": {"shape": [4], "dtype": "F99", "data_offsets": [0, 16]}},
        {"a": {"shape": [4], "dtype": "F32", "data_offsets": [0, 16]},
         "b": {"shape": [4], "dtype": "F32", "data_offsets": [8, 24]}},
        {"a": {"shape": [-4, -1], "dtype": "F32", "data_offsets": [0, 16]}},
        {"a": {"shape": [2**62, 2**62], "dtype": "F32", "data_offsets": [0, 16]}},
        {"a": {"shape": "x", "dtype": "F32", "data_offsets": [0, 16]}},
        {"a": {"shape": [4], "dtype": ["F32"], "data_offsets": [0, 16]}},
    ],
)  # fmt: skip
def test_tensors_that_overlap_or_do_not_fit_their_shapes_are_named(
    folder: Path, entries: object
) -> None:
    header = json.dumps(entries).encode()
    (folder / SECOND).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))

    with pytest.raises(CheckpointError, match=f"{SECOND}: its safetensors header is damaged"):
        load_text(folder)


@pytest.mark.parametrize("file", ["config.json", SECOND, INDEX])
def test_json_that_is_nested_too_deeply_is_named(folder: Path, file: str) -> None:
    nested = b'{"a": ' * 100_000 + b"1" + b"}" * 100_000
    start = struct.pack("<Q", len(nested)) if file == SECOND else b""
    (folder / file).write_bytes(start + nested)

    with pytest.raises(CheckpointError, match=re.escape(file)):
        load_text(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", SECOND, INDEX])
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)

    with pytest.raises(CheckpointError, match=re.escape(file)):
        load_text(folder)
