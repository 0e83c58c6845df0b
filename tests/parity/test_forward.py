from pathlib import Path

import pytest

from phicorpus.errors import CheckpointError
from phicorpus.parity.compare import Check
from phicorpus.parity.forward import run_pack
from phicorpus.parity.hash_weights import uniform

# A minute of arithmetic for each pack, and several where other programs want the cores too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GOLDENS = Path(__file__).parents[1] / "goldens"
# Fields that each pack must have checked at least so often: a check that never ran proves nothing.
EXPECTED = {
    "phi3_vision": {
        "pixels.projection": 14,
        "tower.projection": 11,
        "image_embeds.rowproj": 11,
        "hidden.rowproj": 15,
        "argmax": 15,
        "greedy": 15,
        "batch": 60,
    },
    "phi4_multimodal": {
        "pixels.projection": 13,
        "tower.projection": 10,
        "image_embeds.rowproj": 10,
        "audio_embeds.rowproj": 8,
        "mel0.rowproj": 8,
        "hidden.rowproj": 20,
        "argmax": 20,
        "greedy": 20,
        "batch": 92,
    },
    "phi3_vision_tasks": {
        "input_ids": 8,
        "image_embeds.rowproj": 7,
        "hidden.rowproj": 8,
        "greedy": 8,
        "batch": 40,
    },
    "phi4_multimodal_tasks": {
        "input_ids": 14,
        "image_embeds.rowproj": 6,
        "audio_embeds.rowproj": 7,
        "hidden.rowproj": 14,
        "greedy": 14,
        "batch": 88,
    },
}


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def checked(request: pytest.FixtureRequest) -> tuple[str, list[Check]]:
    return request.param, run_pack(GOLDENS / request.param)


def test_every_field_of_every_case_is_that_of_the_original_code(
    checked: tuple[str, list[Check]],
) -> None:
    _, checks = checked

    assert [check for check in checks if not check.passed] == []


def test_no_part_of_the_pack_is_left_unchecked(checked: tuple[str, list[Check]]) -> None:
    pack, checks = checked

    for field, least in EXPECTED[pack].items():
        found = [c for c in checks if c.field == field or c.field.startswith(field + ":")]
        assert len(found) >= least, field


def test_a_difference_that_is_not_a_number_never_passes() -> None:
    assert not Check("case", "field", float("nan"), 1.0).passed


def test_hashed_weights_are_those_of_the_specification() -> None:
    assert uniform("model.norm.weight", 4, seed=1).tolist() == [
        -0.6595965623855591,
        0.15823757648468018,
        0.6707600355148315,
        0.4143320322036743,
    ]


def test_a_pack_without_its_arrays_is_named(tmp_path: Path) -> None:
    for name in ("cases.json", "tokenization.json"):
        (tmp_path / name).write_bytes((GOLDENS / "phi4_multimodal" / name).read_bytes())

    with pytest.raises(CheckpointError, match=r"golden\.npz"):
        run_pack(tmp_path)
