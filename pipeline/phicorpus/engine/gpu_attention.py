"""The attention of a step on an accelerator: the best kernels that are there and compute rightly.

Sequences with one new token read their pages in place; prompts are attended packed, and only one
that goes on, behind tokens that are in pages already, gathers its own pages. What no kernel serves,
`cpu_attention` does, on the same device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from transformers import Phi3ForCausalLM

from phicorpus.engine.attention_check import (
    Heads,
    decode_deviation,
    first_trusted,
    packed_deviation,
)
from phicorpus.engine.attention_kernels import (
    DecodeKernel,
    PackedKernel,
    Packing,
    decode_kernels,
    packed_kernels,
    plain_decode,
)
from phicorpus.engine.cpu_attention import (
    Cache,
    New,
    Numbers,
    PagedStep,
    Step,
    StepLayout,
    write,
)
from phicorpus.errors import ConfigError

_MIN_CAPABILITY = (8, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels that serve a decoder; None: torch alone does.

    Attributes:
        name: In words, for a log.
        decode: For sequences with one new token.
        packed: For prompts.
    """

    name: str = "sdpa"
    decode: DecodeKernel | None = None
    packed: PackedKernel | None = None


@dataclass(frozen=True, slots=True)
class DecodeTensors:
    """A step in which every sequence has one new token; for GPU graphs, written in place.

    Attributes:
        slots: Place of each new token's key, counted in tokens from the first page, int64,
            shape (rows,). Of a row that only pads, in a page that nobody reads.
        table: Pages of each sequence, in order, int32, shape (rows, pages per sequence).
        lengths: Tokens of each sequence, the new one included, int32, shape (rows,); 0 only pads.
    """

    slots: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor


class GpuAttention:
    """A decoder's attention, of one replica.

    Args:
        decoder: On its device, in its dtype.
        page_size: Tokens per page.
        wanted: "auto"; "sdpa": no kernel but torch's own attention; "flash": FlashAttention's.
        kernels: Instead of those that are found.

    Attributes:
        name: The kernels in words, for a log.
        is_graph_safe: A GPU graph of `decode_step` is worth it: a kernel reads pages in place.

    Raises:
        ConfigError: `wanted` is "flash", and FlashAttention does not serve this decoder here.
    """

    def __init__(
        self,
        decoder: Phi3ForCausalLM,
        page_size: int,
        wanted: str = "auto",
        kernels: Kernels | None = None,
    ) -> None:
        self._device, self._dtype = decoder.device, decoder.dtype
        self._window: int | None = decoder.config.sliding_window
        self._kernels = kernels or choose(decoder, page_size, wanted)
        self.name = self._kernels.name
        self.is_graph_safe = self._kernels.decode is not None

    def step(self, layout: StepLayout) -> Step:
        """Prepare a step; sequences with one new token come first."""
        if self._kernels.decode is None and self._kernels.packed is None:
            return PagedStep(layout, self._dtype, self._device, self._window)
        slots = _put(layout.written(), torch.int64, self._device)
        return _Parts(slots, list(self._parts(layout)))

    def decode_step(self, tensors: DecodeTensors) -> Step:
        """Prepare a step of which a graph may be made; it reads the tensors anew each time.

        Raises:
            ValueError: the decoder attends to a window of keys only.
        """
        if self._window is not None:
            raise ValueError("no graph of attention within a sliding window")
        part = _Decoding(self._kernels.decode or plain_decode, tensors.table, tensors.lengths)
        return _Parts(tensors.slots, [(slice(None), part)])

    def _parts(self, layout: StepLayout) -> Iterator[tuple[slice, _Part]]:
        """Cut a step into sequences that decode, prompts that begin, and prompts that go on."""
        ends = np.append(0, layout.new.cumsum())
        num_decoding = int((layout.new == 1).cumprod().sum())

        def kind(row: int) -> tuple[bool, bool]:
            return row < num_decoding, row >= num_decoding and layout.past[row] > 0

        for (decodes, goes_on), group in groupby(range(layout.new.size), kind):
            rows = list(group)
            some = layout.rows(slice(rows[0], rows[-1] + 1))
            own = slice(int(ends[rows[0]]), int(ends[rows[-1] + 1]))
            if decodes and self._kernels.decode is not None:
                table, lengths = (
                    _put(values, torch.int32, self._device) for values in (some.pages, some.known)
                )
                yield own, _Decoding(self._kernels.decode, table, lengths)
            elif not decodes and self._kernels.packed is not None:
                places = _put(some.read(), torch.int64, self._device) if goes_on else None
                yield own, _Prompts(self._kernels.packed, self._packing(some), places)
            else:
                yield own, PagedStep(some, self._dtype, self._device)

    def _packing(self, layout: StepLayout) -> Packing:
        query_ends, key_ends = (
            _put(np.append(0, counts.cumsum()), torch.int32, self._device)
            for counts in (layout.new, layout.known)
        )
        return Packing(query_ends, key_ends, int(layout.new.max()), int(layout.known.max()))


def choose(decoder: Phi3ForCausalLM, page_size: int, wanted: str) -> Kernels:
    """Choose the kernels for a decoder; each is tried before it is trusted.

    Raises:
        ConfigError: as `GpuAttention`.
    """
    reason = why_no_kernel(decoder)
    if wanted == "sdpa" or (wanted == "auto" and reason is not None):
        return Kernels()
    refused: list[str] = []
    decode, packed = None, None
    if reason is None:
        heads = Heads.of(decoder.config, decoder.device, decoder.dtype)
        decode = first_trusted(
            [each for each in decode_kernels(page_size) if wanted == "auto" or "flash" in each[0]],
            lambda kernel: decode_deviation(kernel, heads, page_size),
            refused,
        )
        packed = first_trusted(
            packed_kernels(), lambda kernel: packed_deviation(kernel, heads), refused
        )
        reason = "; ".join(refused) or "no FlashAttention is installed"
    if wanted == "flash" and packed is None:
        raise ConfigError(f"model.attention is 'flash', and {reason}: leave it at auto")
    if refused:
        log.warning("an attention kernel is not used", extra={"reason": reason})
    if decode is None and packed is None:
        return Kernels()
    names = [each[0] if each else "sdpa" for each in (decode, packed)]
    name = f"{names[0]} decode, {names[1]} prefill"
    return Kernels(name, decode and decode[1], packed and packed[1])


def why_no_kernel(decoder: Phi3ForCausalLM) -> str | None:
    """Return why no kernel of any library serves a decoder where it is; None: one may."""
    device, dtype = decoder.device, decoder.dtype
    if device.type != "cuda":
        return f"a device of the type {device.type} has no kernels"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"no kernel computes in {dtype}"
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    if decoder.config.sliding_window is not None:
        return f"no kernel keeps to a window of {decoder.config.sliding_window} tokens"
    return None


class _Part(Protocol):
    """Attention of some sequences of a step."""

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """A step in parts, each of them some tokens, one after another."""

    slots: torch.Tensor
    parts: Sequence[tuple[slice, _Part]]

    def attend(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        write(new, cache, self.slots)
        return self.attend_written(new, cache, scaling)

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        query, key, value = new
        outputs = [
            part.attend_written((query[:, own], key[:, own], value[:, own]), cache, scaling)
            for own, part in self.parts
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Sequences with one new token each, by a kernel that reads pages in place."""

    kernel: DecodeKernel
    table: torch.Tensor
    lengths: torch.Tensor

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        return self.kernel(new[0].transpose(0, 1), cache, self.table, self.lengths, scaling)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts, or parts of them, by a packed kernel.

    Attributes:
        kernel: The kernel.
        packing: Of queries and keys.
        places: Where all their keys are, counted in tokens from the first page; None: they have
            none but the new ones.
    """

    kernel: PackedKernel
    packing: Packing
    places: torch.Tensor | None

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        query, key, value = (each.transpose(0, 1) for each in new)
        if self.places is not None:
            key, value = (
                pages.view(-1, *pages.shape[2:]).index_select(0, self.places) for pages in cache
            )
        return self.kernel((query, key, value), self.packing, scaling)


def _put(values: Numbers, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Copy numbers to a device, without waiting for what it computes."""
    tensor = torch.from_numpy(values).to(dtype)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
