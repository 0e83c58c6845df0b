"""Phi-4-multimodal's chat format: turns become token ids, and slots for media.

`<|system|>...<|end|><|user|>...<|end|><|assistant|>`, without line breaks. Special tokens are found
by name, so any vocabulary works; what looks like one in a turn's text stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import RequestRefused
from pipeline.models.conversation import check_turns
from pipeline.models.model import Canvas, Clip, Modality, Projection, Role, Slot, Turn
from pipeline.models.phi4_multimodal import audio
from pipeline.models.phi4_multimodal.image import ImagePreparation
from pipeline.models.tokenizer import PromptTokenizer


class PromptFormat:
    """Writes prompts for one modality.

    Attributes:
        stop_ids: Either ends an answer.
        banned_ids: The placeholders of image and audio.
    """

    def __init__(
        self, tokenizer: PromptTokenizer, preparation: ImagePreparation, modality: Modality
    ) -> None:
        """Find the special tokens.

        Raises:
            CheckpointError: the tokenizer lacks one.
        """
        self._tokenizer = tokenizer
        self._preparation = preparation
        self._modality = modality
        self._roles: dict[Role, int] = {
            "system": tokenizer.special_id("<|system|>"),
            "user": tokenizer.special_id("<|user|>"),
            "assistant": tokenizer.special_id("<|assistant|>"),
        }
        self._end = tokenizer.special_id("<|end|>")
        # The hub's tokenizer calls the placeholders by number, the later native one by content.
        self._image = tokenizer.special_id("<|endoftext10|>", "<|image|>")
        self._audio = tokenizer.special_id("<|endoftext11|>", "<|audio|>")
        self.stop_ids = frozenset({self._end, tokenizer.special_id("<|endoftext|>")})
        self.banned_ids = frozenset({self._image, self._audio})

    def write(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Write a conversation, ready for the assistant's answer.

        Raises:
            RequestRefused: empty, not ending with a user turn, or with media that the modality's
                adapter was not trained for.
        """
        check_turns(turns)
        media = [part for turn in turns for part in turn.content if not isinstance(part, str)]
        self._check_media(media)
        beside_image = any(isinstance(part, Canvas) for part in media)
        prompt: list[int | Slot] = []
        for turn in turns:
            prompt.append(self._roles[turn.role])
            prompt.extend(self._content(turn, beside_image=beside_image))
            prompt.append(self._end)
        prompt.append(self._roles["assistant"])
        return prompt

    def slot(self, part: Canvas | Clip, *, beside_image: bool) -> Slot:
        """Make the slot of a medium.

        Args:
            part: The medium.
            beside_image: Whether the request has an image, which chooses a clip's projection.

        Raises:
            RequestRefused: a canvas of another model, or a clip without samples.
        """
        if isinstance(part, Canvas):
            return Slot(part, "image", self._preparation.num_rows(part))
        if part.samples.ndim != 1 or not part.samples.size:
            raise RequestRefused(f"a clip of shape {part.samples.shape}: expected mono samples")
        if part.rate_hz not in audio.RATES_HZ:
            raise RequestRefused(f"a clip of {part.rate_hz} Hz: expected 16,000 or 8,000")
        projection: Projection = "vision_speech" if beside_image else "speech"
        return Slot(part, projection, audio.num_rows(part.samples.size, part.rate_hz))

    def _content(self, turn: Turn, *, beside_image: bool) -> Iterator[int | Slot]:
        """Yield a turn's content; neighbouring texts are one text to the tokenizer."""
        text, before = "", self._roles[turn.role]
        for part in turn.content:
            if isinstance(part, str):
                text += part
                continue
            placeholder = self._image if isinstance(part, Canvas) else self._audio
            yield from self._tokenizer.encode(text, after=before, before=placeholder)
            yield self.slot(part, beside_image=beside_image)
            text, before = "", placeholder
        yield from self._tokenizer.encode(text, after=before, before=self._end)

    def _check_media(self, media: Sequence[Canvas | Clip]) -> None:
        """Refuse media that the merged adapter does not serve: the answer would be wrong."""
        has_image = any(isinstance(part, Canvas) for part in media)
        has_audio = any(isinstance(part, Clip) for part in media)
        needed: Modality = "vision" if has_image else "speech" if has_audio else "text"
        if needed != self._modality:
            raise RequestRefused(
                f"a request with {_describe(has_image=has_image, has_audio=has_audio)} needs the"
                f" model loaded for {needed}; this one is loaded for {self._modality}"
            )


def _describe(*, has_image: bool, has_audio: bool) -> str:
    parts = [name for name, there in (("an image", has_image), ("audio", has_audio)) if there]
    return " and ".join(parts) or "text only"
