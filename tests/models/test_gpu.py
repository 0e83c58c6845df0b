from pathlib import Path

import pytest
import torch

from phicorpus.models.checkpoint import Resolved, load
from phicorpus.models.model import Model, Slot, Turn
from phicorpus.parity.forward import run_pack
from tests.models.test_phi4_multimodal import a_canvas, a_clip

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.gpu
@pytest.mark.parametrize("pack", ["phi3_vision", "phi4_multimodal"])
def test_a_gpu_answers_as_the_original_code(pack: str) -> None:
    checks = run_pack(GOLDENS / pack, device="cuda")

    assert [check for check in checks if not check.passed] == []


@pytest.mark.gpu
def test_sixteen_bits_stay_close_to_thirty_two(tiny: Resolved) -> None:
    turns = [Turn("user", (a_canvas(500, 300), a_clip(3.0)))]

    exact, fast = (
        _rows(load(tiny, modality="vision", device="cuda", dtype=dtype), turns)
        for dtype in ("float32", "bfloat16")
    )

    assert fast.dtype == torch.bfloat16
    assert (exact - fast.float()).norm() / exact.norm() < 0.05


def _rows(model: Model, turns: list[Turn]) -> torch.Tensor:
    return torch.cat(model.encode([s for s in model.tokenize(turns) if isinstance(s, Slot)]))
