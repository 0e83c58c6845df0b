"""Encoded media: each is encoded once, and kept until its rows' memory is needed."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import Phi3ForCausalLM

from phicorpus.engine.recovery import is_device_lost
from phicorpus.models.model import Canvas, Slot

_CROP_PIXELS = 448 * 448  # of CLIP's 336 and SigLIP's 448 the larger; a canvas is cut into such


def word_embedding(decoder: Phi3ForCausalLM) -> nn.Embedding:
    """Return the decoder's embedding."""
    return cast("nn.Embedding", decoder.get_input_embeddings())


@dataclass(eq=False, slots=True)
class Medium:
    """One medium's feature rows.

    Attributes:
        slot: What to encode.
        rows: shape (slot.num_rows, hidden); None until they are encoded.
        error: Why they cannot be encoded.
        holders: Sequences that need it.
    """

    slot: Slot
    rows: torch.Tensor | None = None
    error: Exception | None = None
    holders: int = 0


class EncoderCache:
    """Feature rows by medium, the least recently used dropped first. Used by one thread.

    Args:
        encode: `Model.encode`.
        num_rows: Rows that it may hold.
        batch: Crops and clips encoded at once.

    Attributes:
        num_held: Rows that a sequence needs.
        num_encoded: Media encoded so far.
    """

    def __init__(
        self, encode: Callable[[Sequence[Slot]], list[torch.Tensor]], *, num_rows: int, batch: int
    ) -> None:
        self.num_held = 0
        self.num_encoded = 0
        self._encode = encode
        self._num_rows = num_rows
        self._batch = batch
        self._media: OrderedDict[Hashable, Medium] = OrderedDict()
        self._total = 0  # rows of all media here
        self._pending: dict[Medium, None] = {}  # held, and not encoded yet
        self._num_pending = 0  # crops and clips of these

    @property
    def is_batch_full(self) -> bool:
        """True where as much waits as is encoded at once."""
        return self._num_pending >= self._batch

    @property
    def has_pending(self) -> bool:
        """True where media wait to be encoded."""
        return bool(self._pending)

    def hold(self, slots: Sequence[Slot]) -> list[Medium] | None:
        """Hold the media of slots, all or none; those that are new wait to be encoded.

        Returns:
            One medium for each key; None where there is no room now.
        """
        wanted = {slot.key: slot for slot in slots}
        known = {key: self._media[key] for key in wanted if key in self._media}
        num_new = sum(slot.num_rows for key, slot in wanted.items() if key not in known)
        num_kept = sum(one.slot.num_rows for one in known.values() if not one.holders)
        if self.num_held + num_kept + num_new > self._num_rows:
            return None
        for medium in known.values():
            self._hold(medium)
        while self._total + num_new > self._num_rows:
            self._drop(next(one for one in self._media.values() if not one.holders))
        for key, slot in wanted.items():
            if key not in known:
                medium = self._media[key] = Medium(slot)
                self._total += slot.num_rows
                self._pending[medium] = None
                self._num_pending += num_crops(slot)
                self._hold(medium)
        return [self._media[key] for key in wanted]

    def release(self, media: Sequence[Medium]) -> None:
        """Hold media once less; one that nobody needs and that is not encoded is forgotten."""
        for medium in media:
            medium.holders -= 1
            if medium.holders:
                continue
            self.num_held -= medium.slot.num_rows
            if medium.rows is None:
                self._drop(medium)

    def encode_next(self) -> list[Medium]:
        """Encode the next batch; see `encode`."""
        media = self.next_batch()
        self.encode(media)
        return media

    def next_batch(self) -> list[Medium]:
        """Take the media that are to be encoded next; they wait no more."""
        media: list[Medium] = []
        size = 0
        for medium in self._pending:
            size += num_crops(medium.slot)
            if media and size > self._batch:
                break
            media.append(medium)
        for medium in media:
            self._done(medium)
        return media

    def encode(self, media: Sequence[Medium]) -> None:
        """Encode media together; where that fails, each alone.

        Each has its rows or its error then. May run in a thread of its own.
        """
        error = self._try(media) if media else None
        if error is not None and len(media) > 1 and not is_device_lost(error):
            for medium in media:
                medium.error = self._try([medium])
        elif error is not None:
            for medium in media:
                medium.error = error

    @torch.no_grad()
    def _try(self, media: Sequence[Medium]) -> Exception | None:
        """Encode media together; return what went wrong."""
        try:
            outputs = self._encode([medium.slot for medium in media])
            for medium, rows in zip(media, outputs, strict=True):
                _check(medium.slot, rows)
            for medium, rows in zip(media, outputs, strict=True):
                # A view would keep the memory of the whole batch.
                is_view = rows.untyped_storage().nbytes() > rows.nbytes
                medium.rows = rows.clone() if is_view else rows
        except Exception as error:  # noqa: BLE001 an encoder may raise anything: its requests fail
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory
            return error
        self.num_encoded += len(media)
        return None

    def _hold(self, medium: Medium) -> None:
        self.num_held += 0 if medium.holders else medium.slot.num_rows
        medium.holders += 1
        self._media.move_to_end(medium.slot.key)

    def _drop(self, medium: Medium) -> None:
        self._done(medium)
        if self._media.get(medium.slot.key) is medium:
            del self._media[medium.slot.key]
            self._total -= medium.slot.num_rows

    def _done(self, medium: Medium) -> None:
        if medium in self._pending:
            del self._pending[medium]
            self._num_pending -= num_crops(medium.slot)


def _check(slot: Slot, rows: torch.Tensor) -> None:
    if rows.shape[0] != slot.num_rows:
        raise ValueError(f"the encoder gave {rows.shape[0]} rows, announced were {slot.num_rows}")


def num_crops(slot: Slot) -> int:
    """Count the crops or clips of a slot in a batch."""
    if not isinstance(slot.media, Canvas):
        return 1
    height, width, _ = slot.media.pixels.shape
    return max(1, round(height * width / _CROP_PIXELS))
