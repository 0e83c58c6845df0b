"""The chat formats of Phi-3 and Phi-4 text models, with images for Phi-3-vision.

Phi-3 breaks the line after a role, after the end of a turn and after the prompt; Phi-4-mini never
does. Which one it is shows in the vocabulary: Phi-3's is Llama's, with `<s>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from pipeline.errors import RequestRefused
from pipeline.models.conversation import check_turns
from pipeline.models.model import Canvas, Clip, Role, Slot, Turn
from pipeline.models.preparation import Preparation
from pipeline.models.tokenizer import PromptTokenizer

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
        self._break = LINE_BREAK if tokenizer.has(LLAMA_START) else ""
        self._start = tokenizer.start_ids
        stops = {tokenizer.special_id(name) for name in STOPS}
        self.stop_ids = frozenset(stops | ({self._roles["assistant"]} if self._break else set()))
        self.banned_ids: frozenset[int] = frozenset()

    def write(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Write a conversation, ready for the assistant's answer.

        Raises:
            RequestRefused: empty, not ending with a user turn, or with media this model lacks.
        """
        check_turns(turns)
        prompt: list[int | Slot] = [*self._start]
        for turn in turns:
            prompt.append(self._roles[turn.role])
            prompt.extend(self._content(turn))
            prompt.append(self._end)
            prompt.extend(self._tokenizer.encode(self._break, after=self._end))
        answer = self._roles["assistant"]
        prompt.append(answer)
        prompt.extend(self._tokenizer.encode(self._break, after=answer))
        return prompt

    def _content(self, turn: Turn) -> Iterator[int | Slot]:
        """Yield a turn's content; neighbouring texts are one text to the tokenizer.

        The original tokenizes the text around images piece by piece, so each piece after an image
        starts with the start token again. An image stands on a line of its own, unless the text
        behind it begins with white space of its own.
        """
        text, before = self._break, cast("int | None", self._roles[turn.role])
        for number, part in enumerate(turn.content):
            if isinstance(part, str):
                text += part
                continue
            yield from self._tokenizer.encode(text, after=before)
            yield self._slot(part)
            yield from self._start
            text, before = self._after_image(turn.content[number + 1 :]), None
        yield from self._tokenizer.encode(text, after=before, before=self._end)

    def _after_image(self, rest: Sequence[str | Canvas | Clip]) -> str:
        """Choose what follows an image: a line break, unless there is white space or nothing."""
        if not rest:
            return ""
        following = rest[0]
        if isinstance(following, str) and (not following or following[0].isspace()):
            return ""
        return self._break

    def _slot(self, part: Canvas | Clip) -> Slot:
        if self._preparation is None or isinstance(part, Clip):
            kind = "audio" if isinstance(part, Clip) else "images"
            raise RequestRefused(f"this model does not take {kind}")
        return Slot(part, "image", self._preparation.num_rows(part))
