"""Phi-4-multimodal's chat format: turns become token ids, and slots for media.

`<|system|>...<|end|><|user|>...<|end|><|assistant|>`, without line breaks. Special tokens are found
by name, so any vocabulary works; what looks like one in a turn's text stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from phicorpus.errors import RequestRefused
from phicorpus.models.model import (
    Canvas,
    Clip,
    Media,
    Modality,
    Projection,
    Role,
    Slot,
    Tools,
    Turn,
)
from phicorpus.models.phi4_multimodal import audio
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.prompt_parts import (
    Part,
    PartEncoder,
    Special,
    check_turns,
    parts_of,
    tool_parts,
)
from phicorpus.models.tokenizer import PromptTokenizer


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
        self._tools = tokenizer.special_ids("<|tool|>", "<|/tool|>")
        # The hub's tokenizer calls the placeholders by number, the later native one by content.
        image = tokenizer.special_id("<|endoftext10|>", "<|image|>")
        audio = tokenizer.special_id("<|endoftext11|>", "<|audio|>")
        self.stop_ids = frozenset({self._end, tokenizer.special_id("<|endoftext|>")})
        self.banned_ids = frozenset({image, audio})
        self._encoder = PartEncoder(
            tokenizer=tokenizer, slots=self.slots, placeholders={Canvas: image, Clip: audio}
        )

    def write(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Write a conversation, ready for the assistant's answer.

        Raises:
            RequestRefused: empty, not ending with a user turn, or with media that the modality's
                adapter was not trained for.
        """
        check_turns(turns)
        return self._encoder.encode(self._parts(turns))

    def read(self, prompt: str, media: Sequence[Media]) -> list[int | Slot]:
        """Tokenize a prompt in the original processor's notation; see `parts_of`.

        Raises:
            RequestRefused: its places do not fit the media, or the media the modality.
        """
        return self._encoder.encode(parts_of(prompt, media, self._tokenizer))

    def _parts(self, turns: Sequence[Turn]) -> Iterator[Part]:
        for turn in turns:
            yield Special(self._roles[turn.role])
            for part in turn.content:
                yield from tool_parts(part, self._tools) if isinstance(part, Tools) else [part]
            yield Special(self._end)
        yield Special(self._roles["assistant"])

    def slots(self, media: Sequence[Media]) -> list[Slot]:
        """Make the slots of a request's media, which decide together how clips are encoded.

        Raises:
            RequestRefused: media of another model or modality, or a clip without samples.
        """
        self._check_media(media)
        has_image = any(isinstance(medium, Canvas) for medium in media)
        is_only_clip = sum(isinstance(medium, Clip) for medium in media) == 1
        clip_slot = partial(_clip_slot, beside_image=has_image, is_only_clip=is_only_clip)
        return [
            Slot(medium, "image", self._preparation.num_rows(medium))
            if isinstance(medium, Canvas)
            else clip_slot(medium)
            for medium in media
        ]

    def _check_media(self, media: Sequence[Media]) -> None:
        """Refuse media that the merged adapter does not serve: the answer would be wrong."""
        has_image = any(isinstance(part, Canvas) for part in media)
        has_audio = any(isinstance(part, Clip) for part in media)
        needed: Modality = "vision" if has_image else "speech" if has_audio else "text"
        if needed != self._modality:
            raise RequestRefused(
                f"a request with {_describe(has_image=has_image, has_audio=has_audio)} needs the"
                f" model loaded for {needed}; this one is loaded for {self._modality}"
            )


def _clip_slot(clip: Clip, *, beside_image: bool, is_only_clip: bool) -> Slot:
    """Make a clip's slot.

    Args:
        clip: The clip.
        beside_image: Whether its request has an image, which chooses the projection.
        is_only_clip: Whether its request has no other, which decides what the last of several
            blocks attends to.
    """
    if clip.features is None and (clip.samples.ndim != 1 or not clip.samples.size):
        raise RequestRefused(f"a clip of shape {clip.samples.shape}: expected mono samples")
    if clip.rate_hz not in audio.RATES_HZ:
        raise RequestRefused(f"a clip of {clip.rate_hz} Hz: expected 16,000 or 8,000")
    projection: Projection = "vision_speech" if beside_image else "speech"
    if clip.features is None:
        num_frames = audio.num_frames(clip.samples.size, clip.rate_hz)
    else:
        num_frames = len(clip.features)
    num_rows = audio.rows_of_frames(num_frames)
    has_filling = num_rows > audio.BLOCK_ROWS and num_rows % audio.BLOCK_ROWS != 0
    return Slot(clip, projection, num_rows, attends_filling=is_only_clip and has_filling)


def _describe(*, has_image: bool, has_audio: bool) -> str:
    parts = [name for name, there in (("an image", has_image), ("audio", has_audio)) if there]
    return " and ".join(parts) or "text only"
