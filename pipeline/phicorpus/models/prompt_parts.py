"""The parts of a prompt (special tokens, text and media, in order), and their token ids.

Every chat format writes its turns as parts, and so does the notation of the original processors
(`<|user|><|image_1|>What is shown?<|end|>`). One function makes ids of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from phicorpus.errors import RequestRefused
from phicorpus.models.model import Canvas, Clip, Media, Slot, Tools, Turn
from phicorpus.models.tokenizer import PromptTokenizer

_MEDIUM = re.compile(r"<\|(image|audio)_(\d+)\|>")


@dataclass(frozen=True, slots=True)
class Special:
    """A special token, which no text can write."""

    token_id: int


Part = Special | str | Canvas | Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEncoder:
    """Makes ids of parts, as a processor does.

    Attributes:
        tokenizer: Of the checkpoint.
        slots: Makes the slots of all of a request's media, in order.
        placeholders: The special token that stands for a kind of medium in the processor's text. A
            kind without one ends the text before it, and what follows is a text of its own.
        start_ids: What begins the prompt, and every text of its own.
    """

    tokenizer: PromptTokenizer
    slots: Callable[[Sequence[Media]], Sequence[Slot]]
    placeholders: Mapping[type[Media], int]
    start_ids: Sequence[int] = ()

    def encode(self, parts: Iterable[Part]) -> list[int | Slot]:
        """Make the ids of a prompt; neighbouring texts are one text to the tokenizer.

        Raises:
            RequestRefused: media that the model does not take.
        """
        joined = list(_joined(parts))
        slots = iter(self.slots([part for part in joined if isinstance(part, Canvas | Clip)]))
        prompt: list[int | Slot] = [*self.start_ids]
        for number, part in enumerate(joined):
            if isinstance(part, Special):
                prompt.append(part.token_id)
            elif isinstance(part, str):
                neighbours = (joined[number - 1 : number], joined[number + 1 : number + 2])
                after, before = (self._token(*neighbour) for neighbour in neighbours)
                prompt.extend(self.tokenizer.encode(part, after=after, before=before))
            else:
                prompt.append(next(slots))
                if type(part) not in self.placeholders:
                    prompt.extend(self.start_ids)
        return prompt

    def _token(self, neighbour: Part | None = None) -> int | None:
        """Return the special token that a text's neighbour is to the tokenizer; None: none."""
        if isinstance(neighbour, Canvas | Clip):
            return self.placeholders.get(type(neighbour))
        return neighbour.token_id if isinstance(neighbour, Special) else None


def check_turns(turns: Sequence[Turn]) -> None:
    """Refuse a conversation that cannot be answered.

    Raises:
        RequestRefused: it has no turns, an empty turn, tools outside a system turn, or does not end
            with a user turn.
    """
    if not turns or turns[-1].role != "user":
        raise RequestRefused("a conversation has to end with a user turn")
    for number, turn in enumerate(turns, start=1):
        if not any(not isinstance(part, str) or part.strip() for part in turn.content):
            raise RequestRefused(f"turn {number} ({turn.role}) is empty")
        if turn.role != "system" and any(isinstance(part, Tools) for part in turn.content):
            raise RequestRefused(f"turn {number} ({turn.role}) has tools; the system turn has them")


def parts_of(prompt: str, media: Sequence[Media], tokenizer: PromptTokenizer) -> Iterator[Part]:
    """Read a prompt in the notation of the original processors.

    The original code puts a request's media into the places in the order in which both stand,
    whatever the places' numbers say: `<|image_3|> ... <|image_1|>` are the first and second image.

    Args:
        prompt: With the names of special tokens, `<|image_k|>` and `<|audio_k|>`.
        media: Images and sounds, each kind in the order in which the request lists it.
        tokenizer: Knows the special tokens.

    Raises:
        RequestRefused: the prompt has more places or fewer than there are media.
    """
    waiting = {
        "image": [medium for medium in media if isinstance(medium, Canvas)],
        "audio": [medium for medium in media if isinstance(medium, Clip)],
    }
    end = 0
    for place in _MEDIUM.finditer(prompt):
        yield from _specials(prompt[end : place.start()], tokenizer)
        if not waiting[place[1]]:
            raise RequestRefused(f"the prompt has more places for {place[1]} than there are media")
        yield waiting[place[1]].pop(0)
        end = place.end()
    yield from _specials(prompt[end:], tokenizer)
    if left := [kind for kind, unplaced in waiting.items() if unplaced]:
        raise RequestRefused(f"the prompt has no place for every {' and '.join(left)}")


def tool_parts(tools: Tools, markers: tuple[int, ...] | None) -> Iterator[Part]:
    """Write the functions that the model may call between the two special tokens for them.

    Raises:
        RequestRefused: the model's vocabulary has no such tokens.
    """
    if markers is None:
        raise RequestRefused("this model's tokenizer has no <|tool|>: it cannot call functions")
    yield Special(markers[0])
    yield tools.definitions
    yield Special(markers[1])


def _specials(text: str, tokenizer: PromptTokenizer) -> Iterator[Part]:
    for piece in tokenizer.split_at_specials(text):
        yield Special(piece) if isinstance(piece, int) else piece


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring texts, and leave out empty ones."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        yield part
        text = ""
    if text:
        yield text
