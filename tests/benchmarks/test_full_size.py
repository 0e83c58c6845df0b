"""The full-size run of `benchmarks.gpu.full_size`, rehearsed with small sizes."""

import math
from pathlib import Path

import pytest

from benchmarks.gpu.full_size import PHI3_VISION, PHI4_MULTIMODAL, SCALES, Json, run
from phicorpus.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

SIZES: tuple[tuple[str, Json], ...] = (
    ("phi3_vision", PHI3_VISION),
    ("phi4_multimodal", PHI4_MULTIMODAL),
)


def test_the_rehearsal_answers_every_question_of_both_models(tmp_path: Path) -> None:
    reports = {name: list(run(SCALES["tiny"], name, tmp_path)) for name in SCALES["tiny"].configs}

    asked = {
        (name, modality, question): answer
        for name, so_far in reports.items()
        for modality, found in so_far[-1]["modalities"].items()
        for question, answer in found["answers"].items()
    }
    assert set(asked) == {
        ("Phi-4-multimodal", "vision", "page"),
        ("Phi-4-multimodal", "vision", "page and clip"),
        ("Phi-4-multimodal", "speech", "clip"),
        ("Phi-4-multimodal", "text", "text"),
        ("Phi-3.5-vision", "vision", "page"),
        ("Phi-3.5-vision", "text", "text"),
    }
    assert all(answer["answer_tokens"] > 0 for answer in asked.values())
    text, clip, page, both = (
        asked["Phi-4-multimodal", modality, question]["prompt_tokens"]
        for modality, question in (
            ("text", "text"),
            ("speech", "clip"),
            ("vision", "page"),
            ("vision", "page and clip"),
        )
    )
    assert clip - text == both - page == 375  # rows of 30 s
    assert not list(tmp_path.iterdir())


def test_the_full_size_has_the_published_bytes_and_parameters() -> None:
    phi3, phi4 = (
        sum(math.prod(shape) for _, shape in ARCHITECTURES[architecture].published_tensors(config))
        for architecture, config in SIZES
    )

    def layer(hidden: int, feed_forward: int) -> int:
        return 4 * hidden * (hidden + 1) + 2 * hidden * feed_forward + feed_forward + 5 * hidden

    # Less the vision towers' ends, which no answer needs: the last layer, norm and pooling head.
    clip = layer(1024, 4096) + 2 * 1024
    siglip = layer(1152, 4304) + 2 * 1152
    pooling = 1152 + layer(1152, 4304) - 2 * 1152
    assert 2 * phi3 == 8_293_242_880 - 2 * clip
    assert phi4 == 5_574_460_384 - siglip - pooling
