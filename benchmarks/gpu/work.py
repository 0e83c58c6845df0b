"""The work of a run: pages to read, photographs to describe, speech to write down.

Sizes are those of real assets: an A4 page at 150 dpi is 3,281 feature rows, a photograph of 800 x
600 pixels 1,065, a clip of 30 s 375. All assets of a kind share their pixels or samples and differ
in their key, so that each is encoded, and none has to be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from phicorpus.engine.engine import Request
from phicorpus.models.model import Canvas, Clip, Modality, Turn
from phicorpus.models.phi4_multimodal.audio import num_rows
from phicorpus.models.phi4_multimodal.image import ImagePreparation

CLIP_S = 30
_RATE_HZ = 16_000
_QUESTION = "What is in it? Task "


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work.

    Attributes:
        unit: What is counted.
        modality: That the model is loaded for.
        size_px: Width and height of the image; None: the asset is a clip of 30 s.
        answer: Median of the answer's tokens, drawn log-normally.
        spread: Of their logarithm.
        longest: Answer.
        tasks: Requests about one asset.
        seconds: To run for; the first third is not counted.
    """

    unit: str
    modality: Modality
    size_px: tuple[int, int] | None
    answer: int
    spread: float
    longest: int
    tasks: int
    seconds: float


WORKS: Mapping[str, Work] = {
    "speech": Work("clips", "speech", None, 90, 0.5, 300, 1, 20.0),
    "ocr": Work("pages", "vision", (1240, 1754), 500, 0.8, 768, 1, 60.0),
    "captions": Work("images", "vision", (800, 600), 70, 0.3, 160, 1, 20.0),
    "3 captions": Work("images", "vision", (800, 600), 70, 0.3, 160, 3, 20.0),
}


def requests(work: Work, preparation: ImagePreparation, *, divisor: int = 1) -> Iterator[Request]:
    """Draw requests without end, the same ones at each call.

    Args:
        work: The kind.
        preparation: Of the model's images.
        divisor: Sizes and answers are divided by it.
    """
    generator = np.random.default_rng(0)
    pixels, samples = _page(work, preparation, divisor), None
    if pixels is None:
        samples = generator.uniform(-0.1, 0.1, CLIP_S * _RATE_HZ // divisor).astype(np.float32)
    asset = 0
    while True:
        key = f"asset {asset}"
        media = (
            Canvas(
                pixels=pixels.pixels,
                valid_width_px=pixels.valid_width_px,
                valid_height_px=pixels.valid_height_px,
                key=key,
            )
            if pixels is not None
            else Clip(samples=samples, key=key)  # type: ignore[arg-type]
        )
        for task in range(work.tasks):
            length = min(work.longest, generator.lognormal(np.log(work.answer), work.spread))
            yield Request(
                request_id=f"{asset}.{task}",
                turns=(Turn("user", (media, f"{_QUESTION}{task}")),),
                max_new_tokens=max(2, int(length) // divisor),
            )
        asset += 1


def num_media_rows(request: Request, preparation: ImagePreparation) -> int:
    """Count the feature rows of a request's media."""
    return sum(
        preparation.num_rows(part) if isinstance(part, Canvas) else num_rows(part.samples.size)
        for part in request.turns[0].content
        if isinstance(part, Canvas | Clip)
    )


def _page(work: Work, preparation: ImagePreparation, divisor: int) -> Canvas | None:
    if work.size_px is None:
        return None
    width_px, height_px = (side // divisor for side in work.size_px)
    noise = np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), np.uint8)
    return preparation.canvas(Image.fromarray(noise), key="all")
