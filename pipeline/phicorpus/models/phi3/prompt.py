"""The chat formats of Phi-3 and Phi-4 text models, with images for Phi-3-vision.

Phi-3 breaks the line after a role, after the end of a turn and after the prompt; Phi-4-mini never
does. Which one it is shows in the vocabulary: Phi-3's is Llama's, with `<s>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phicorpus.errors import RequestRefused
from phicorpus.models.model import Canvas, Clip, Media, Role, Slot, Tools, Turn
from phicorpus.models.preparation import Preparation
from phicorpus.models.prompt_parts import (
    Part,
    PartEncoder,
    Special,
    check_turns,
    parts_of,
    tool_parts,
)
from phicorpus.models.tokenizer import PromptTokenizer

LLAMA_START = "<s>"
LINE_BREAK = "\n"
# Phi-3 answers may also end by starting the next turn (eos_token_id of its generation_config.json).
STOPS = ("<|end|>", "<|endoftext|>")


class ChatFormat:
    """Writes prompts.

    Attributes:
        stop_ids: Any of them ends an answer.
        banned_ids: Empty: the vocabulary has no placeholders.
    """

    def __init__(self, tokenizer: PromptTokenizer, preparation: Preparation | None = None) -> None:
        """Find the special tokens.

        Args:
            tokenizer: Of the checkpoint.
            preparation: How images become canvases; None: images are refused.

        Raises:
            CheckpointError: the tokenizer lacks a special token.
        """
        self._tokenizer = tokenizer
        self._preparation = preparation
        self._roles: dict[Role, int] = {
            "system": tokenizer.special_id("<|system|>"),
            "user": tokenizer.special_id("<|user|>"),
            "assistant": tokenizer.special_id("<|assistant|>"),
        }
        self._end = tokenizer.special_id("<|end|>")
        self._tools = tokenizer.special_ids("<|tool|>", "<|/tool|>")
        self._break = LINE_BREAK if tokenizer.has(LLAMA_START) else ""
        stops = {tokenizer.special_id(name) for name in STOPS}
        self.stop_ids = frozenset(stops | ({self._roles["assistant"]} if self._break else set()))
        self.banned_ids: frozenset[int] = frozenset()
        # The original tokenizes the text around images piece by piece, each with its start token.
        self._encoder = PartEncoder(
            tokenizer=tokenizer,
            slots=self.slots,
            placeholders={},
            start_ids=tokenizer.start_ids,
        )

    def write(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Write a conversation, ready for the assistant's answer.

        Raises:
            RequestRefused: empty, not ending with a user turn, or with media this model lacks.
        """
        check_turns(turns)
        return self._encoder.encode(self._parts(turns))

    def read(self, prompt: str, media: Sequence[Media]) -> list[int | Slot]:
        """Tokenize a prompt in the original processor's notation; see `parts_of`.

        Raises:
            RequestRefused: its places do not fit the media, or the model takes none.
        """
        return self._encoder.encode(parts_of(prompt, media, self._tokenizer))

    def _parts(self, turns: Sequence[Turn]) -> Iterator[Part]:
        for turn in turns:
            yield Special(self._roles[turn.role])
            yield self._break
            for number, part in enumerate(turn.content):
                if isinstance(part, Tools):
                    yield from tool_parts(part, self._tools)
                    continue
                yield part
                if not isinstance(part, str):
                    yield self._after_image(turn.content[number + 1 :])
            yield Special(self._end)
            yield self._break
        yield Special(self._roles["assistant"])
        yield self._break

    def _after_image(self, rest: Sequence[str | Canvas | Clip | Tools]) -> str:
        """Choose what follows an image: a line break, unless there is white space or nothing."""
        if not rest:
            return ""
        following = rest[0]
        if isinstance(following, str) and (not following or following[0].isspace()):
            return ""
        return self._break

    def slots(self, media: Sequence[Media]) -> list[Slot]:
        """Make the slots of a request's media.

        Raises:
            RequestRefused: media that this model lacks.
        """
        return [self._slot(medium) for medium in media]

    def _slot(self, part: Media) -> Slot:
        if self._preparation is None or isinstance(part, Clip):
            kind = "audio" if isinstance(part, Clip) else "images"
            raise RequestRefused(f"this model does not take {kind}")
        return Slot(part, "image", self._preparation.num_rows(part))
