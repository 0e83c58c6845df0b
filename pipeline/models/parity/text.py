"""The pack checks of prompts: our ids against those of the original processor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from pipeline.models.checkpoint import Resolved
from pipeline.models.model import Canvas, Clip, Modality, Role, Slot, Turn
from pipeline.models.parity.compare import Check
from pipeline.models.parity.pack import Pack, max_crops
from pipeline.models.parity.probe import Probed

_TURN = re.compile(r"<\|(system|user|assistant)\|>(.*?)<\|end\|>", re.DOTALL)
_MEDIUM = re.compile(r"<\|(image|audio)_(\d+)\|>")


def check(pack: Pack, resolved: Resolved, model: Callable[[Modality], Probed]) -> Iterator[Check]:
    """Compare the ids of the pack's prompts, media as runs of placeholders."""
    for number, case in enumerate(pack.tokenization):
        turns = _turns(case, resolved)
        kinds = {type(part) for turn in turns for part in turn.content}
        modality: Modality = "vision" if Canvas in kinds else "speech" if Clip in kinds else "text"
        found = _runs(model(modality).model.tokenize(turns), pack.cases)
        expected = [(kind, count) for kind, count in case["ids_runs"]]
        yield Check("tokenization", str(number), float(found != _joined(expected)), 0.0)


def _turns(case: Mapping[str, Any], resolved: Resolved) -> list[Turn]:
    """Read a prompt in the original's notation as turns."""
    media: dict[tuple[str, int], Canvas | Clip] = {}
    if resolved.preparation is not None:
        preparation = resolved.preparation.with_max_crops(max_crops(case))
        for number, size in enumerate(case["image_sizes"], start=1):
            media["image", number] = preparation.canvas(Image.new("RGB", tuple(size)))
    for number, samples in enumerate(case.get("audio_samples", ()), start=1):
        media["audio", number] = Clip(samples=np.zeros(samples, np.float32), key=str(samples))
    return [
        Turn(cast("Role", role), tuple(_content(text.removeprefix("\n"), media)))
        for role, text in _TURN.findall(case["prompt"])
    ]


def _content(
    text: str, media: Mapping[tuple[str, int], Canvas | Clip]
) -> Iterator[str | Canvas | Clip]:
    end = 0
    for medium in _MEDIUM.finditer(text):
        if medium.start() > end:
            yield text[end : medium.start()]
        yield media[medium[1], int(medium[2])]
        end = medium.end()
    if text[end:]:
        yield text[end:]


def _runs(prompt: Sequence[int | Slot], cases: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Count equal neighbours; a slot is a run of its placeholder: -k for image k, or its id."""
    runs: list[tuple[int, int]] = []
    images = 0
    for item in prompt:
        if isinstance(item, int):
            runs.append((item, 1))
            continue
        if isinstance(item.media, Clip):
            placeholder = cases["audio_token_id"]
        else:
            images += 1
            placeholder = cases.get("image_token_id", -images)
        runs.append((placeholder, item.num_rows))
    return _joined(runs)


def _joined(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for kind, count in runs:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + count)
        else:
            joined.append((kind, count))
    return joined
