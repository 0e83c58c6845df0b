"""The interface to a model: `submit(request) -> completion`, async, from many callers at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from phicorpus.engine.capabilities import Capabilities
from phicorpus.models.model import Regime, Turn

FinishReason = Literal["stop", "length", "loop", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """The form that an answer has to match; exactly one of the three.

    A guided answer that ends by "stop" matches. One that ends by "length" may be torn: bound the
    strings, arrays and numbers of a schema. JSON comes in one line, with one space behind each
    comma and colon.

    Attributes:
        json_schema: A JSON Schema, as JSON.
        regex: A regular expression for the whole answer, without look-around.
        choices: The possible answers.
    """

    json_schema: str | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the model.

    Attributes:
        request_id: Names the request in errors and logs.
        turns: The conversation, ending with a user turn.
        max_new_tokens: Upper bound of the answer, tokens.
        temperature: 0 is greedy.
        seed: Of the sampling; the answer does not depend on what else is in the batch.
        stop: Texts that end the answer; not part of it. None beside a guide.
        guide: What the answer has to match.
        no_repeat_ngram: No run of so many tokens comes twice in the answer; 0: no limit.
    """

    request_id: str
    turns: tuple[Turn, ...]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    guide: Guide | None = None
    no_repeat_ngram: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The model's answer.

    Attributes:
        text: Without special tokens and stop texts.
        token_ids: As generated, the stop id excluded.
        prompt_tokens: Ids and feature rows of the prompt.
        finish_reason: "loop" and "deadline" are stop rules, "cancelled" is by `Engine.cancel`; the
            text is what was there by then.
        mean_logprob: Mean of ln p of the generated tokens; None if none was generated.
        regime: The LongRoPE factors that the whole request was run with.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    mean_logprob: float | None
    regime: Regime


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was loaded, and gauges of now.

    Attributes:
        busy_s: Seconds in which it computed. Our own engines: a pass of the decoder under way, from
            its launch until the device has chosen its tokens, or media being encoded; what the
            host does between passes is not. Within a pass the device may still wait for the host
            to launch its kernels, which only the device's own gauge shows. vLLM's passes are in a
            process of its own, so there: at least one request in it, or media being encoded.
        loaded_s: Seconds since it was loaded: busy_s / loaded_s is its busy share.
    """

    num_requests: int = 0
    num_completed: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prefill_tokens: int = 0  # less than prompt_tokens where a prefix was shared
    media_encoded: int = 0
    media_reused: int = 0
    num_running: int = 0
    num_waiting: int = 0
    busy_s: float = 0.0
    loaded_s: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


class BusyTime:
    """Seconds in which at least one of an engine's threads computed: two at once count once.

    A context manager around what computes, from any thread; costs about a microsecond.

    Args:
        clock: Seconds of a clock that never goes back.

    Example:
        >>> busy = BusyTime()
        >>> with busy, busy:
        ...     inside = busy.seconds()
        >>> busy.seconds()[0] <= busy.seconds()[1], inside[0] <= busy.seconds()[0]
        (True, True)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # of the next three
        self._inside = 0
        self._since = 0.0
        self._past_s = 0.0
        self._began = self._clock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = self._clock()
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._past_s += self._clock() - self._since

    def seconds(self) -> tuple[float, float]:
        """Return (busy, since it was made), what is under way included; the first is never more."""
        with self._lock:
            now = self._clock()
            under_way_s = now - self._since if self._inside else 0.0
            return self._past_s + under_way_s, now - self._began


class Engine(Protocol):
    """Answers requests concurrently."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities in which engines differ; whatever a request asks, all of them can."""
        ...

    async def submit(self, request: Request) -> Completion:
        """Answer one request.

        Raises:
            RequestRefused: the request cannot be run by this model; nothing else is hurt.
            InferError: this request failed; nothing else is hurt.
            EngineDied: the engine is lost with all it had.
        """
        ...

    def cancel(self, request_id: str) -> bool:
        """End all requests of an id with what they have; from any thread.

        Their `submit` returns a completion that ends by "cancelled", or raises. It returns at once
        where a request waits or its media are encoded, else at its next token, which is part of
        the answer. No other answer changes.

        Returns:
            True if there were any. Ids that are unknown or answered already do nothing.
        """
        ...

    def stats(self) -> EngineStats:
        """Return counters and gauges."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return what it runs on: engine, device (with its name), dtype, attention, graphs."""
        ...

    def close(self) -> None:
        """End the engine's threads and free its memory; safe to call twice."""
        ...
