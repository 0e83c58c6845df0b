import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from phicorpus.cli import app
from phicorpus.models.checkpoint import Resolved, load
from phicorpus.models.inspection import describe_examination, examine
from tests.models.builders import all_tensors, write_native

SECOND = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def as_one_file(folder: Path, **changes: object) -> None:
    """Write a checkpoint's tensors anew as one file; None takes one out."""
    tensors = {**all_tensors(folder), **changes}
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors")  # type: ignore[arg-type] - arrays


def test_a_checkpoint_is_told_in_words(tiny_folder: Path, tiny: Resolved) -> None:
    words = "\n".join(describe_examination(examine(str(tiny_folder))))

    assert "phi4_multimodal, in the layout of the hub" in words
    assert tiny.digest in words
    assert "vision of rank 8, speech of rank 12" in words
    for modality in ("vision", "speech", "text"):
        assert f"for {modality}: " in words
    assert "KV cache per token" in words
    assert "131072 tokens" in words
    assert "nothing is wrong" in words


def test_what_it_says_of_memory_is_what_loading_takes(tiny_folder: Path, tiny: Resolved) -> None:
    found = examine(str(tiny_folder))

    for told in found.loads:
        model = load(tiny, modality=told.modality, device="cpu")
        parts: list[torch.nn.Module] = [model.decoder]
        parts += [getattr(model, name) for name in ("image_encoder", "audio_encoder")]
        values = [v for part in parts for v in part.state_dict().values() if not v.is_meta]
        states = {v.data_ptr(): v for v in values}  # tied weights are there once
        assert sum(v.numel() for v in states.values()) == told.num_parameters
        assert told.float32_bytes == 4 * told.num_parameters == 2 * told.bfloat16_bytes
    assert found.kv_bytes_per_token == 2 * 3 * 2 * 2 * 16
    assert found.num_parameters == sum(v.size for v in all_tensors(tiny_folder).values())


def test_the_native_layout_is_named_and_good(tiny_folder: Path, tmp_path: Path) -> None:
    found = examine(str(write_native(tiny_folder, tmp_path / "native")))

    assert (found.layout, found.problems) == ("transformers", [])
    assert found.adapters == {"vision": 8, "speech": 12}
    assert found.loads == examine(str(tiny_folder)).loads


def test_no_torch_is_needed(tiny_folder: Path) -> None:
    code = (
        "import sys; from phicorpus.models.inspection import examine;"
        f"assert not examine({str(tiny_folder)!r}).problems;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code


def test_a_missing_shard_is_named_once(folder: Path) -> None:
    (folder / SECOND).unlink()

    found = examine(str(folder))

    assert len(found.problems) == 1
    assert SECOND in found.problems[0]
    assert found.loads


def test_a_missing_and_a_foreign_tensor_are_named(folder: Path) -> None:
    mystery = all_tensors(folder)["model.norm.weight"]
    as_one_file(folder, **{"model.norm.weight": None, "model.mystery": mystery})

    problems = "\n".join(examine(str(folder)).problems)

    assert "does not have: model.mystery" in problems
    assert "lacks: model.norm.weight" in problems


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    as_one_file(folder, **{"model.norm.weight": all_tensors(folder)["model.norm.weight"][:60]})

    (problem,) = examine(str(folder)).problems

    assert "model.norm.weight [60] instead of [64]" in problem


def test_a_forgotten_adapter_is_told_though_nothing_else_would(folder: Path) -> None:
    gone = {name: None for name in all_tensors(folder) if ".speech." in name and "lora" in name}
    as_one_file(folder, **gone)

    (problem,) = examine(str(folder)).problems

    assert problem.startswith("adapter speech: 0 A and 0 B")


def test_pickles_alone_are_refused(folder: Path) -> None:
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    (folder / "pytorch_model.bin").touch()

    (problem,) = examine(str(folder)).problems

    assert "pickles only" in problem


def test_code_in_a_checkpoint_is_noted_and_never_run(folder: Path) -> None:
    (folder / "modeling_phi4mm.py").write_text("raise SystemExit(9)")

    found = examine(str(folder))

    assert found.notes == ["its Python files are never run: modeling_phi4mm.py"]
    assert not found.problems


def test_another_architecture_is_named_with_those_that_are_supported(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))

    (problem,) = examine(str(folder)).problems

    assert "'llama'" in problem
    assert "phi4mm" in problem


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_ends_with_2_where_something_is_wrong(folder: Path, broken: bool) -> None:
    if broken:
        (folder / SECOND).unlink()

    shown = CliRunner().invoke(app, ["doctor", "--model", str(folder), "--json"])

    assert shown.exit_code == (2 if broken else 0)
    assert bool(json.loads(shown.stdout)["problems"]) == broken


def test_a_name_that_is_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert "neither a folder nor a hub name" in examine("/no/such/folder").problems[0]


def test_the_model_of_the_package_is_looked_at_whole_and_told_in_millions() -> None:
    found = examine("tiny")

    assert (found.notes, found.problems) == ([], [])
    assert found.num_parameters is not None
    assert "million parameters" in "\n".join(describe_examination(found))
