"""Encoded media on the CPU, from where they go to vLLM as parts of prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from collections.abc import Sequence as Ordered
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import torch

from phicorpus.engine.encoder_cache import EncoderCache, Medium
from phicorpus.engine.engine import BusyTime
from phicorpus.engine.recovery import is_device_lost, lost_device_message
from phicorpus.engine.sequence import Sequence
from phicorpus.errors import EngineDied, InferError
from phicorpus.models.model import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as vLLM takes it.

    Attributes:
        token_ids: One per token; where a feature row stands, any.
        features: shape (tokens, hidden); rows of words are not read. None: there are words only.
        is_word: Where there are features: whether a token is one of the vocabulary.
    """

    token_ids: list[int]
    features: torch.Tensor | None = None
    is_word: list[bool] | None = None


def prompt(sequence: Sequence, media: Iterable[Medium]) -> Prompt:
    """Build a sequence's prompt as vLLM takes it, of words and of encoded media."""
    rows = {medium.slot.key: medium.rows for medium in media if medium.rows is not None}
    token_ids: list[int] = sequence.prompt.ids.tolist()
    if not rows:
        return Prompt(token_ids=token_ids)
    like = next(iter(rows.values()))
    embedded = like.new_zeros(len(token_ids), like.shape[1])
    is_word = [True] * len(token_ids)
    for span in sequence.prompt.spans:
        embedded[span.start : span.stop] = rows[span.slot.key]
        is_word[span.start : span.stop] = [False] * (span.stop - span.start)
    return Prompt(token_ids=token_ids, features=embedded, is_word=is_word)


def on_cpu(
    encode: Callable[[Ordered[Slot]], list[torch.Tensor]],
) -> Callable[[Ordered[Slot]], list[torch.Tensor]]:
    """Wrap `Model.encode`: its rows are copied to the CPU, and checked.

    The wrapper raises ValueError where a row is not finite: in vLLM's cache it could reach others.
    """

    def encoded(slots: Ordered[Slot]) -> list[torch.Tensor]:
        outputs = [rows.cpu() for rows in encode(slots)]
        if not all(bool(rows.isfinite().all()) for rows in outputs):
            raise ValueError("the encoder computed nan")
        return outputs

    return encoded


class MediaEncoder:
    """Encodes media on a thread of its own, batched over all that wait. Used by one event loop.

    Args:
        cache: Of encoded media; its `encode` runs on the thread.
        busy: Counts the time of the encoding.

    Attributes:
        num_media: Media that were asked for.
        is_encoding: True while a batch is being encoded.
        num_batches: Batches that were encoded.
    """

    def __init__(self, cache: EncoderCache, busy: BusyTime) -> None:
        self.num_media = 0
        self.is_encoding = False
        self.num_batches = 0
        self._cache = cache
        self._busy = busy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="phicorpus-encode")
        self._turn = asyncio.Lock()  # rows are given in order of arrival
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def encoded(self, sequence: Sequence) -> AsyncIterator[Ordered[Medium]]:
        """Hold a sequence's media, encoded.

        Raises:
            InferError: one of them cannot be encoded.
            EngineDied: the device is lost.
        """
        media = await self._hold([span.slot for span in sequence.prompt.spans])
        try:
            if self._cache.has_pending and not self.is_encoding:
                self.is_encoding = True
                self._task = asyncio.ensure_future(self._encode_all())
            async with self._changed:
                await self._changed.wait_for(lambda: all(map(_is_done, media)))
            error = next((medium.error for medium in media if medium.error is not None), None)
            if error is not None and is_device_lost(error):
                raise EngineDied(lost_device_message(error))
            if error is not None:
                raise InferError(f"cannot encode: {error!r}")
            yield media
        finally:
            self._cache.release(media)
            async with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread, after the batch under way."""
        self._thread.shutdown(wait=not self.is_encoding, cancel_futures=True)

    async def _hold(self, slots: Ordered[Slot]) -> list[Medium]:
        self.num_media += len(slots)
        async with self._turn, self._changed:
            while (held := self._cache.hold(slots)) is None:
                await self._changed.wait()
        return held

    async def _encode_all(self) -> None:
        """Encode what waits, batch by batch, on the thread."""
        loop = asyncio.get_running_loop()
        while media := self._cache.next_batch():
            await loop.run_in_executor(self._thread, self._encode, media)
            self.num_batches += 1
            async with self._changed:
                self._changed.notify_all()
        self.is_encoding = False

    def _encode(self, media: Ordered[Medium]) -> None:
        with self._busy:
            self._cache.encode(media)


def _is_done(medium: Medium) -> bool:
    return medium.rows is not None or medium.error is not None
