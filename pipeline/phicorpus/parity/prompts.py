"""The checks of a pack's prompts: our ids against those of the original processor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from phicorpus.errors import CheckpointError, RequestRefused
from phicorpus.models.checkpoint import Resolved
from phicorpus.models.language_model import LanguageModel
from phicorpus.models.model import Canvas, Clip, Media, Modality, Role, Slot, Tools, Turn
from phicorpus.parity.compare import Check
from phicorpus.parity.pack import Pack, max_crops
from phicorpus.parity.probe import Probed

_TURN = re.compile(r"<\|(system|user|assistant)\|>\n?(.*?)<\|end\|>\n?", re.DOTALL)
_ANSWER = re.compile(r"<\|assistant\|>\n?")
_PART = re.compile(r"<\|(image|audio)_(\d+)\|>|<\|tool\|>(.*?)<\|/tool\|>", re.DOTALL)
# Phi-3's turns put a line break between an image and a text.
_WITHOUT_BREAK = re.compile(r"\A<\|(?:user|system)\|>\n.*<\|image_\d+\|>[^\s<]", re.DOTALL)


def check(pack: Pack, resolved: Resolved, model: Callable[[Modality], Probed]) -> Iterator[Check]:
    """Compare the ids of the pack's prompts, as text and as turns; media are runs of placeholders.

    Raises:
        CheckpointError: a prompt's places do not fit its media.
    """
    for number, case in enumerate(pack.tokenization):
        media = _media(case, resolved)
        loaded = language_model(model(_modality(media)))
        expected = _joined([(kind, count) for kind, count in case["ids_runs"]])
        found = runs(tokenize(loaded, case["prompt"], media), case["prompt"], pack.cases)
        yield Check("tokenization", str(number), float(found != expected), 0.0)
        turns = _turns(case["prompt"], media)
        if turns is not None:
            found = runs(loaded.tokenize(turns), case["prompt"], pack.cases)
            yield Check("tokenization", f"{number}:turns", float(found != expected), 0.0)


def tokenize(model: LanguageModel, prompt: str, media: Sequence[Media]) -> list[int | Slot]:
    """Tokenize a pack's prompt as the product does.

    Raises:
        CheckpointError: its places do not fit the media.
    """
    try:
        return model.tokenize_prompt(prompt, media)
    except RequestRefused as error:
        raise CheckpointError(f"the pack's prompt {prompt!r}: {error}") from error


def language_model(probed: Probed) -> LanguageModel:
    """Return the loaded model, which tokenizes raw prompts too."""
    assert isinstance(probed.model, LanguageModel)  # noqa: S101 - what `load` gives
    return probed.model


def runs(
    prompt: Sequence[int | Slot], written: str, cases: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """Count equal neighbours of a tokenized prompt.

    Args:
        prompt: As our code made it.
        written: As text: Phi-3-vision's original writes image k as id -k.
        cases: cases.json, which names the placeholders.
    """
    numbers = iter([int(n) for kind, n, _ in _PART.findall(written) if kind == "image"])
    counted: list[tuple[int, int]] = []
    for item in prompt:
        if isinstance(item, int):
            counted.append((item, 1))
            continue
        if isinstance(item.media, Clip):
            placeholder = cases["audio_token_id"]
        else:
            placeholder = cases.get("image_token_id", -next(numbers, 0))
        counted.append((placeholder, item.num_rows))
    return _joined(counted)


def runs_of(ids: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Count equal neighbours of the original processor's ids."""
    return _joined([(int(token), 1) for token in ids])


def _media(case: Mapping[str, Any], resolved: Resolved) -> list[Media]:
    """Make media of the sizes that a case of tokenization.json names."""
    media: list[Media] = []
    if resolved.preparation is not None:
        preparation = resolved.preparation.with_max_crops(max_crops(case))
        media += [preparation.canvas(Image.new("RGB", tuple(size))) for size in case["image_sizes"]]
    for samples in case.get("audio_samples", ()):
        media.append(Clip(samples=np.zeros(samples, np.float32), key=str(samples)))
    return media


def _modality(media: Sequence[Media]) -> Modality:
    kinds = {type(medium) for medium in media}
    return "vision" if Canvas in kinds else "speech" if Clip in kinds else "text"


def _turns(prompt: str, media: Sequence[Media]) -> list[Turn] | None:
    """Read a prompt as turns; None where no turns are written so."""
    found = list(_TURN.finditer(prompt))
    end = found[-1].end() if found else 0
    whole = "".join(turn[0] for turn in found) == prompt[:end]
    if not whole or _ANSWER.fullmatch(prompt[end:]) is None or _WITHOUT_BREAK.match(prompt):
        return None
    waiting = {
        "image": [medium for medium in media if isinstance(medium, Canvas)],
        "audio": [medium for medium in media if isinstance(medium, Clip)],
    }
    return [Turn(cast("Role", turn[1]), tuple(_content(turn[2], waiting))) for turn in found]


def _content(text: str, waiting: Mapping[str, list[Any]]) -> Iterator[str | Media | Tools]:
    end = 0
    for part in _PART.finditer(text):
        if part.start() > end:
            yield text[end : part.start()]
        yield waiting[part[1]].pop(0) if part[1] else Tools(part[3])
        end = part.end()
    if text[end:]:
        yield text[end:]


def _joined(counted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for kind, count in counted:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + count)
        else:
            joined.append((kind, count))
    return joined
