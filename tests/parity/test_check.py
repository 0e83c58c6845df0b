import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from phicorpus.cli import app
from phicorpus.errors import CheckpointError
from phicorpus.parity.check import check_engine, check_pack, render_checks
from phicorpus.parity.compare import Check
from phicorpus.parity.forward import opened
from phicorpus.parity.hash_weights import tensor

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent.parent / "goldens"
TEXT_CASES = ("text", "text_system", "text_cross")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def text_pack(tmp_path: Path) -> Path:
    """A pack of another architecture: the text cases of Phi-3-vision, as a text model's."""
    source, folder = GOLDENS / "phi3_vision", tmp_path / "text"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "weights.json"):
        shutil.copy(source / name, folder)
    change(folder / "config.json", model_type="phi3")
    weights = json.loads((source / "weights.json").read_text())
    kept = {k: v for k, v in weights["tensors"].items() if "vision_embed_tokens" not in k}
    change(folder / "weights.json", tensors=kept, crc32_all=crc(weights | {"tensors": kept}))
    cases = json.loads((source / "cases.json").read_text())["cases"]
    chosen = [case for case in cases if case["name"] in TEXT_CASES]
    batches = [{"name": "all", "rows": list(TEXT_CASES)}]
    (folder / "cases.json").write_text(json.dumps({"cases": chosen, "batches": batches}))
    with np.load(source / "golden.npz") as arrays:
        own = {key: value for key, value in arrays.items() if key.split("/")[0] in TEXT_CASES}
    np.savez(folder / "golden.npz", allow_pickle=False, **own)
    return folder


def crc(weights: Mapping[str, Any]) -> int:
    state = 0
    for name, shape in weights["tensors"].items():
        state = zlib.crc32(tensor(name, shape, weights["seed"], weights["rules"]).data, state)
    return state


@pytest.mark.parametrize("name", ["phi3_vision", "phi4_multimodal"])
def test_the_engine_gives_the_original_tokens_alone_in_batches_and_in_a_mix(name: str) -> None:
    with opened(GOLDENS / name, device="cpu", dtype="float32") as run:
        checks = list(check_engine(run))

    cases = json.loads((GOLDENS / name / "cases.json").read_text())
    assert [check for check in checks if not check.passed] == []
    for field in ("engine:alone:greedy", "engine:mix:greedy"):
        assert {c.case for c in checks if c.field == field} == {c["name"] for c in cases["cases"]}
    for batch in cases["batches"]:
        field = f"batch:{batch['name']}:engine:greedy"
        assert {c.case for c in checks if c.field == field} == set(batch["rows"])


def test_a_pack_of_another_architecture_and_without_optional_parts_is_checked(
    text_pack: Path,
) -> None:
    checks = check_pack(text_pack)

    assert [check for check in checks if not check.passed] == []
    assert {check.case for check in checks} == set(TEXT_CASES)
    assert len([check for check in checks if "engine" in check.field]) == 3 * len(TEXT_CASES)


def test_other_weights_than_the_pack_was_made_with_are_refused(text_pack: Path) -> None:
    change(text_pack / "weights.json", seed=9)

    with pytest.raises(CheckpointError, match="CRC-32"):
        check_pack(text_pack)


def test_other_weights_give_other_answers(text_pack: Path) -> None:
    weights = json.loads((text_pack / "weights.json").read_text()) | {"seed": 9}
    change(text_pack / "weights.json", seed=9, crc32_all=crc(weights))

    failed = {check.field for check in check_pack(text_pack) if not check.passed}

    assert failed >= {"hidden.last", "logits.sample", "greedy", "engine:alone:greedy"}


def test_the_command_fails_when_a_tolerance_is_passed(text_pack: Path) -> None:
    with np.load(text_pack / "golden.npz") as arrays:
        changed = dict(arrays)
    changed["text/greedy"] = changed["text/greedy"] + 1
    np.savez(text_pack / "golden.npz", allow_pickle=False, **changed)

    result = CliRunner().invoke(app, ["parity", str(text_pack), "--json"])

    assert result.exit_code == 1
    failed = [check for check in json.loads(result.stdout) if not check["passed"]]
    assert {check["case"] for check in failed} == {"text"}
    assert {check["field"] for check in failed} >= {"greedy", "engine:alone:greedy"}


def test_the_command_shows_differences_beside_their_tolerances(text_pack: Path) -> None:
    result = CliRunner().invoke(app, ["parity", str(text_pack)])

    assert result.exit_code == 0
    assert "hidden.rowproj" in result.stdout
    assert "0.005" in result.stdout
    assert "checks passed" in result.stdout


def test_what_differs_is_shown_first() -> None:
    table = render_checks(
        [Check("a", "near", 0.9, 1.0), Check("b", "far", 2.0, 1.0), Check("c", "equal", 0.0, 0.0)],
        title="",
    )

    assert list(table.columns[0].cells) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("golden.npz", b"", r"golden\.npz"),
        ("golden.npz", b"PK\x03\x04 damaged", r"golden\.npz"),
        ("cases.json", b"{}", "no cases"),
        ("cases.json", b'{"cases": [{"name": "text"}]}', "case 0 lacks"),
        ("weights.json", b"{}", "lacks crc32_all"),
        ("config.json", None, r"config\.json"),
        ("tokenizer.json", None, r"tokenizer\.json"),
    ],
)
def test_a_broken_pack_is_named(
    text_pack: Path, file: str, content: bytes | None, complaint: str
) -> None:
    if content is None:
        (text_pack / file).unlink()
    else:
        (text_pack / file).write_bytes(content)

    with pytest.raises(CheckpointError, match=complaint):
        check_pack(text_pack)


def test_a_pack_that_lacks_an_array_is_named(text_pack: Path) -> None:
    with zipfile.ZipFile(text_pack / "golden.npz") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(text_pack / "golden.npz", "w") as cut:
        for name, content in members.items():
            if name != "text/hidden.last.npy":
                cut.writestr(name, content)

    with pytest.raises(CheckpointError, match=r"lacks text/hidden\.last"):
        check_pack(text_pack)
