"""An engine without a model: answers, delays and disasters by rule, for tests and simulations."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from phicorpus.engine.capabilities import Capabilities
from phicorpus.engine.engine import BusyTime, Completion, EngineStats, FinishReason, Request
from phicorpus.errors import EngineDied, InferError, RequestRefused
from phicorpus.models.model import Canvas, Clip

Answer = str | Mapping[str, str] | Callable[[Request], str]
When = tuple[str, ...] | Callable[[Request], bool]

_VOCABULARY = 32_000
_MEDIA_TOKENS = 256
_LOGPROB = -0.25
_HANG_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The behaviour of a `ScriptedEngine`. Plain values and named functions, so that it pickles.

    The answer is a pure function of a request's texts and media keys. A rule (`*_when`) is a
    tuple of markers, of which one occurs in a text or a media key, or a function of the request.

    Attributes:
        answer: One text for all; a text per marker (the first marker found answers, "" matches
            everything); a function of the request. Default: a text that tells requests apart.
        delay_s: How long every answer takes.
        delay_spread_s: Up to so much longer, by the request's content: answers overtake each other.
        refuse_when: Raise RequestRefused.
        fail_when: Raise InferError.
        die_when: Raise EngineDied, now and at every later submit.
        exit_when: End the process at once, with `exit_code`.
        kill_when: End the process with SIGKILL.
        hang_when: Never answer; cancelling, which then gives no words, and closing still work.
        exit_code: Of `exit_when`.
        strikes_path: A folder that counts disasters (die, exit, kill, hang) over processes; None:
            they strike each time.
        max_strikes: How often each request's disaster strikes, where `strikes_path` counts.
    """

    answer: Answer | None = None
    delay_s: float = 0.0
    delay_spread_s: float = 0.0
    refuse_when: When = ()
    fail_when: When = ()
    die_when: When = ()
    exit_when: When = ()
    kill_when: When = ()
    hang_when: When = ()
    exit_code: int = 70
    strikes_path: str | None = None
    max_strikes: int = 1


class ScriptedEngine:
    """The `Engine` protocol by rule.

    A cancelled request has as much of its answer as of its delay has passed.

    Example:
        >>> from phicorpus.models.model import Turn
        >>> engine = ScriptedEngine(Script(answer={"caption": "a cat", "": "nothing"}))
        >>> request = Request(
        ...     request_id="a", turns=(Turn("user", ("a caption, please",)),), max_new_tokens=8)
        >>> completion = asyncio.run(engine.submit(request))
        >>> completion.text, completion.finish_reason
        ('a cat', 'stop')
    """

    capabilities = Capabilities()

    def __init__(self, script: Script) -> None:
        self._script = script
        self._stats = EngineStats()
        self._busy = BusyTime()  # while it answers, which is when it waits
        self._lock = threading.Lock()
        self._open: dict[Future[None], str] = {}  # done where the request of that id is cancelled
        self._dead = False
        self._closed = False
        self._media: set[str] = set()

    async def submit(self, request: Request) -> Completion:
        """Answer by the script; see `Engine.submit`."""
        if self._dead or self._closed:
            raise EngineDied("the scripted engine is closed" if self._closed else "by the script")
        self._count(num_requests=1, num_running=1)
        cancelled = Future[None]()
        with self._lock:
            self._open[cancelled] = request.request_id
        try:
            with self._busy:
                completion = await self._answer(request, cancelled)
        except BaseException:
            self._count(num_failed=1, num_running=-1)
            raise
        finally:
            with self._lock:
                del self._open[cancelled]
        if cancelled.done():  # though it may just have ended by itself: `cancel` said so
            completion = replace(completion, finish_reason="cancelled")
        self._count(num_completed=1, num_running=-1)
        self._count_tokens(request, completion)
        return completion

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        with self._lock:
            found = [one for one, name in self._open.items() if name == request_id]
            for one in found:
                if not one.done():
                    one.set_result(None)
        return bool(found)

    def stats(self) -> EngineStats:
        """Return counters and gauges."""
        busy_s, loaded_s = self._busy.seconds()
        with self._lock:
            return replace(
                self._stats,
                extra=dict(self._stats.extra),
                busy_s=busy_s,
                loaded_s=loaded_s,
            )

    def describe(self) -> Mapping[str, str]:
        """Return that it runs on nothing."""
        return {"engine": "scripted", "device": "none"}

    def close(self) -> None:
        """Refuse what comes; requests that hang end with EngineDied."""
        self._closed = True

    async def _answer(self, request: Request, cancelled: Future[None]) -> Completion:
        script = self._script
        await self._strike(request, cancelled)
        delay_s = script.delay_s + script.delay_spread_s * _fraction(request)
        share = await _wait(delay_s, cancelled)
        if share < 1:
            return _part(_completion(request, _text(script.answer, request)), share)
        if _matches(script.refuse_when, request):
            raise RequestRefused(f"{request.request_id}: refused by the script")
        if _matches(script.fail_when, request):
            raise InferError(f"{request.request_id}: failed by the script")
        return _completion(request, _text(script.answer, request))

    async def _strike(self, request: Request, cancelled: Future[None]) -> None:
        script = self._script
        if _matches(script.exit_when, request) and self._may_strike(request, "exit"):
            os._exit(script.exit_code)
        if _matches(script.kill_when, request) and self._may_strike(request, "kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if _matches(script.die_when, request) and self._may_strike(request, "die"):
            self._dead = True
            raise EngineDied(f"{request.request_id}: died by the script")
        if _matches(script.hang_when, request) and self._may_strike(request, "hang"):
            while not self._closed:
                await asyncio.sleep(_HANG_POLL_S)
                if cancelled.done():
                    return
            raise EngineDied(f"{request.request_id}: closed while it hung")

    def _may_strike(self, request: Request, kind: str) -> bool:
        """Take one of the strikes that are left to this request, over all processes."""
        if self._script.strikes_path is None:
            return True
        folder = Path(self._script.strikes_path)
        folder.mkdir(parents=True, exist_ok=True)
        for count in range(self._script.max_strikes):
            try:
                (folder / f"{kind}-{_digest(request)}-{count}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def _count(
        self,
        *,
        num_requests: int = 0,
        num_completed: int = 0,
        num_failed: int = 0,
        num_running: int = 0,
    ) -> None:
        with self._lock:
            self._stats.num_requests += num_requests
            self._stats.num_completed += num_completed
            self._stats.num_failed += num_failed
            self._stats.num_running += num_running

    def _count_tokens(self, request: Request, completion: Completion) -> None:
        with self._lock:
            self._stats.prompt_tokens += completion.prompt_tokens
            self._stats.prefill_tokens += completion.prompt_tokens
            self._stats.completion_tokens += len(completion.token_ids)
            for key in _media_keys(request):
                if key in self._media:
                    self._stats.media_reused += 1
                else:
                    self._media.add(key)
                    self._stats.media_encoded += 1


def load_scripted(script: Script) -> ScriptedEngine:
    """Build an engine from its script: the factory that a stage is given."""
    return ScriptedEngine(script)


def _texts(request: Request) -> Iterator[str]:
    for turn in request.turns:
        yield from (part for part in turn.content if isinstance(part, str))


def _media_keys(request: Request) -> Iterator[str]:
    for turn in request.turns:
        yield from (part.key for part in turn.content if isinstance(part, Canvas | Clip))


def _contains(marker: str, request: Request) -> bool:
    return any(marker in text for text in (*_texts(request), *_media_keys(request)))


def _matches(when: When, request: Request) -> bool:
    if callable(when):
        return when(request)
    return any(_contains(marker, request) for marker in when)


def _digest(request: Request) -> str:
    parts = "\x1f".join((*_texts(request), "\x1e", *_media_keys(request)))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _fraction(request: Request) -> float:
    return int(_digest(request)[:8], 16) / 2**32


def _text(answer: Answer | None, request: Request) -> str:
    if answer is None:
        return f"a scripted answer {_digest(request)}"
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Mapping):
        for marker, text in answer.items():
            if _contains(marker, request):
                return text
        raise InferError(f"{request.request_id}: the script has no answer for it")
    return answer(request)


async def _wait(delay_s: float, cancelled: Future[None]) -> float:
    """Wait until the delay is over or the request is cancelled; return the share that passed."""
    if cancelled.done():
        return 0.0
    if delay_s <= 0:
        return 1.0
    began = time.monotonic()
    done, _ = await asyncio.wait([asyncio.wrap_future(cancelled)], timeout=delay_s)
    return min(1.0, (time.monotonic() - began) / delay_s) if done else 1.0


def _completion(request: Request, text: str) -> Completion:
    cuts = [text.index(stop) for stop in request.stop if stop and stop in text]
    words = _words(text[: min(cuts)] if cuts else text)
    reason: FinishReason = "stop"
    if len(words) > request.max_new_tokens:
        words, reason = words[: request.max_new_tokens], "length"
    num_words = sum(len(part.split()) for part in _texts(request))
    return Completion(
        text="".join(words),
        token_ids=tuple(
            zlib.crc32(word.encode("utf-8", "replace")) % _VOCABULARY for word in words
        ),
        prompt_tokens=num_words + _MEDIA_TOKENS * len(list(_media_keys(request))),
        finish_reason=reason,
        mean_logprob=_LOGPROB if words else None,
        regime="short",
    )


def _part(completion: Completion, share: float) -> Completion:
    """Cut an answer to a share of its words."""
    num_words = int(share * len(completion.token_ids))
    return replace(
        completion,
        text="".join(_words(completion.text)[:num_words]),
        token_ids=completion.token_ids[:num_words],
        finish_reason="cancelled",
        mean_logprob=_LOGPROB if num_words else None,
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)
