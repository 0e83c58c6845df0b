"""The decoder's forward pass of a step: its inputs, its KV cache, and its scores."""

from __future__ import annotations

from collections.abc import Sequence as Batch

import numpy as np
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine import attention
from phicorpus.engine.attention import Attention, Layer
from phicorpus.engine.cpu_attention import StepLayout
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.last_layer import LastLayer
from phicorpus.engine.sequence import Sequence
from phicorpus.models.model import Model


class ModelRunner:
    """Runs a decoder over the new tokens of several sequences at once.

    The decoder belongs to it until `release`.

    Args:
        model: Loaded, on its device.
        config: Sizes of the KV cache.
        attend: Its attention.
    """

    def __init__(self, model: Model, config: EngineConfig, attend: Attention) -> None:
        self._model = model
        self._attend = attend
        self._page_size = config.page_size
        decoder = model.decoder
        self._device = decoder.device
        self._words = word_embedding(decoder)
        self._cache = kv_cache(model, config)
        self._attention_before = decoder.config._attn_implementation or "sdpa"
        attention.register()
        decoder.set_attn_implementation(attention.NAME)
        self._last_layer = LastLayer(decoder)

    @torch.no_grad()
    def forward(self, batch: Batch[Sequence]) -> torch.Tensor:
        """Compute the new tokens of sequences, and write their keys and values.

        Args:
            batch: Each with its `num_new`; those with one new token first.

        Returns:
            Scores of the next token of each sequence that is asked for one, in order, shape
            (rows, vocabulary), float32.
        """
        layout = self._layout(batch)
        ends = layout.new.cumsum()
        asked = ends[[sequence.is_asked for sequence in batch]] - 1
        count = int(ends[-1])
        numbers = np.concatenate([_new_ids(batch), layout.positions(), asked])
        on_device = torch.from_numpy(numbers).to(self._device, non_blocking=True)
        ids, positions, wanted = on_device.split([count, count, len(asked)])
        self._set_regimes(batch, layout)
        output = self._model.decoder(
            inputs_embeds=self._embed(ids, batch, ends)[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=wanted,
            logits_indices=wanted,
            step=self._attend.step(layout),
            cache=self._cache,
        )
        return output.logits[0].float()

    def release(self) -> None:
        """Free the KV cache, and leave the decoder as it was."""
        self._cache = []
        self._last_layer.release()
        self._model.decoder.set_attn_implementation(self._attention_before)
        if self._model.regime_length:
            self._model.set_regime("short")

    def _layout(self, batch: Batch[Sequence]) -> StepLayout:
        past = np.array([sequence.num_computed for sequence in batch])
        new = np.array([sequence.num_new for sequence in batch])
        counts = -(-(past + new) // self._page_size)
        pages = np.full((len(batch), counts.max()), -1, np.int64)
        for row, (sequence, count) in enumerate(zip(batch, counts.tolist(), strict=True)):
            pages[row, :count] = sequence.pages[:count]
        return StepLayout(new=new, past=past, pages=pages, page_size=self._page_size)

    def _set_regimes(self, batch: Batch[Sequence], layout: StepLayout) -> None:
        if not self._model.regime_length:
            return
        is_long = np.array([sequence.rope_regime == "long" for sequence in batch])
        by_token = torch.from_numpy(np.repeat(is_long, layout.new)).to(self._device)
        self._model.set_regimes(by_token)

    def _embed(self, ids: torch.Tensor, batch: Batch[Sequence], ends: np.ndarray) -> torch.Tensor:
        """Embed the new tokens, shape (tokens, hidden): words, and rows of media."""
        embedded = self._words(ids)
        for sequence, end in zip(batch, ends.tolist(), strict=True):
            media = {medium.slot.key: medium.rows for medium in sequence.media}
            if not media:
                continue
            first, last = sequence.num_computed, sequence.num_computed + sequence.num_new
            offset = end - last  # from a place in the sequence to one in the step
            for span in sequence.prompt.spans:
                begin, stop = max(first, span.start), min(last, span.stop)
                if begin < stop:
                    rows = media[span.slot.key]
                    assert rows is not None  # noqa: S101 it would not run
                    part = rows[begin - span.start : stop - span.start]
                    embedded[offset + begin : offset + stop] = part
        return embedded


def kv_cache(model: Model, config: EngineConfig) -> list[Layer]:
    """Allocate the pages of every layer, and one page more, which nobody reads."""
    decoder = model.decoder
    sizes = decoder.config
    head_size = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    num_pages = config.kv_cache_tokens // config.page_size + 1
    shape = num_pages, config.page_size, sizes.num_key_value_heads or 1, head_size
    place = {"dtype": decoder.dtype, "device": decoder.device}
    return [
        (torch.zeros(shape, **place), torch.zeros(shape, **place))
        for _ in range(sizes.num_hidden_layers)
    ]


def _new_ids(batch: Batch[Sequence]) -> np.ndarray:
    """Return the ids of the new tokens, sequence after sequence; 0 at the rows of media."""
    parts: list[np.ndarray | list[int]] = []
    for sequence in batch:
        first = sequence.num_computed
        is_decoding = first >= sequence.num_tokens
        parts.append(
            [sequence.last_id]
            if is_decoding
            else sequence.prompt.ids[first : first + sequence.num_new]
        )
    return np.concatenate(parts)
