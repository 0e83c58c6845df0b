"""The task: a question for a kind of segment, and the parser of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phicorpus.config import Modality
from phicorpus.media.kinds import KIND_OF_SEGMENT, SegmentKind
from phicorpus.media.segment import Native


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A parsed answer.

    Attributes:
        text: Plain text, for people and for search.
        value: The typed answer, JSON; None where the task has none beyond the text.
        flags: What a reader should know: "no_table", "empty", ...
    """

    text: str
    value: Any = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing asked of a segment.

    Attributes:
        name: As in the config, the manifest and the output's `task=` folder.
        version: Raised when prompt or parser change what an answer is; part of the fingerprint.
        kinds: The segments that it can be asked of.
        modality: That of all its kinds: a question for kinds of two modalities is two tasks.
        prompt: The question; "" where the job has to give it; None for a task that asks no model.
        max_new_tokens: Upper bound of the answer, tokens.
        parse: The model's text to an answer.
        read_native: The answer that the file itself gives, or None where it gives none; used for
            pages that have no pixels, and by tasks without a prompt.
        may_be_empty: Whether no words can be the right answer; if not, the model is asked again.
        json_schema: What the model may write, and nothing else; None: anything.
        guided: The same task with a `json_schema`, asked where the config says `guide`.
        in_document: How an answer stands in its page's or recording's document, as Markdown; None:
            not at all, or in a place that `stages.assemble` has for this task. What is answered
            about texts is in their documents anyway.
        demo_tokens: Its `max_new_tokens` in `phicorpus demo`; None: not in the demo, since the
            small model has not learnt it. A task that asks no model is in the demo anyway.

    Raises:
        ValueError: one of its kinds is of another modality, whose flow would never ask it.
    """

    name: str
    version: int
    kinds: frozenset[SegmentKind]
    modality: Modality
    prompt: str | None
    max_new_tokens: int
    parse: Callable[[str], Answer]
    read_native: Callable[[Native], Answer | None] | None = None
    may_be_empty: bool = True
    json_schema: str | None = None
    guided: Task | None = None
    in_document: Callable[[str], str] | None = None
    demo_tokens: int | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            modality = KIND_OF_SEGMENT[kind].modality
            if modality != self.modality:
                raise ValueError(
                    f"task {self.name} is for {self.modality}, and {kind} is of {modality}: "
                    "a question for kinds of two modalities is two tasks"
                )


def parse_text(text: str) -> Answer:
    """Take an answer as it is, trimmed.

    Example:
        >>> parse_text("  a cat ")
        Answer(text='a cat', value=None, flags=())
        >>> parse_text(" ").flags
        ('empty',)
    """
    trimmed = text.strip()
    return Answer(text=trimmed, flags=() if trimmed else ("empty",))
