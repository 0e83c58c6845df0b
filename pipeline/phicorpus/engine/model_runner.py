"""The decoder's forward pass of a step: its inputs, its KV cache, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Batch

import numpy as np
import numpy.typing as npt
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.attention import interface
from phicorpus.engine.attention.backends import Attention, DecodeTensors
from phicorpus.engine.attention.check import Heads
from phicorpus.engine.attention.layout import StepLayout
from phicorpus.engine.cuda_graphs import CudaGraphs, DecodeGraphs, Graph
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.fused_layers import FusedLayers, fuse
from phicorpus.engine.last_layer import LastLayer
from phicorpus.engine.sequence import Sequence
from phicorpus.models.decoder import describe
from phicorpus.models.model import Model

Numbers = npt.NDArray[np.int64]

# Of a decoding row: its token, its position, the place of its key, its length, its regime; then its
# pages.
_NUM_FIXED = 5


class ModelRunner:
    """Runs a decoder over the new tokens of several sequences at once.

    The decoder belongs to it until `release`.

    Args:
        model: Loaded, on its device.
        config: Sizes of the KV cache and of a step.
        attention: As `Attention`'s `wanted`.
        graphs: Makes CUDA graphs; None: CUDA's own where they can be used.

    Raises:
        ConfigError: the attention that is asked for does not run here.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        *,
        attention: str = "auto",
        graphs: Callable[[], Graph] | None = None,
    ) -> None:
        self._model = model
        self._page_size = config.page_size
        decoder = model.decoder
        self._device = decoder.device
        self._words = word_embedding(decoder)
        self._attention = Attention(decoder, config.page_size, attention)
        num_pages = config.kv_cache_tokens // config.page_size
        self._cache = kv_cache(model, num_pages + 1, config.page_size)  # nobody reads the last
        self._before = decoder.config._attn_implementation or "sdpa"
        interface.register()
        decoder.set_attn_implementation(interface.NAME)
        self._layers = fuse(decoder) or LastLayer(decoder)
        self._graphs: DecodeGraphs | None = None
        if graphs is None and decoder.device.type == "cuda" and self._attention.is_graph_safe:
            graphs = CudaGraphs()
        if graphs is not None:
            self._graphs = DecodeGraphs(
                self._decode,
                graphs,
                device=self._device,
                max_rows=config.max_requests,
                padding=(0, 0, num_pages * config.page_size, 0, 0),
            )

    def describe(self) -> dict[str, str]:
        """Return in words what it runs on."""
        if self._graphs is None:
            graphs = "none: no attention kernel that reads pages in place"
        else:
            graphs = f"off: {why}" if (why := self._graphs.why_off) else "of decoding steps"
        return {
            **describe(self._model.decoder),
            "attention": self._attention.name,
            "layers": "fused" if isinstance(self._layers, FusedLayers) else "transformers",
            "graphs": graphs,
        }

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
        if self._graphs is not None and all(one.is_decoding for one in batch):
            scores = self._graphs.scores(self._numbers(batch, layout))
            if scores is not None:
                return scores.float()
        ends = layout.new.cumsum()
        asked = ends[[one.is_asked for one in batch]] - 1
        num_asked = len(asked)
        if not num_asked:  # of prompts in parts; a product of no rows is not every kernel's case
            asked = ends[-1:] - 1
        is_long = [one.rope_regime == "long" for one in batch]
        parts = _new_ids(batch), layout.positions(), np.repeat(is_long, layout.new), asked
        on_device = self._to_device(np.concatenate(parts))
        ids, positions, regimes, wanted = on_device.split([len(part) for part in parts])
        if self._model.regime_length:
            self._model.set_regimes(regimes.bool())
        output = self._model.decoder(
            inputs_embeds=self._embed(ids, batch, ends)[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=wanted,
            logits_indices=wanted,
            step=self._attention.step(layout),
            kv_pages=self._cache,
        )
        return output.logits[0, :num_asked].float()

    def release(self) -> None:
        """Free the KV cache, and leave the decoder as it was."""
        self._cache, self._graphs = ([], []), None
        self._layers.release()
        self._model.decoder.set_attn_implementation(self._before)
        if self._model.regime_length:
            self._model.set_regime("short")

    def _decode(self, numbers: torch.Tensor) -> torch.Tensor:
        """Compute one token of each row; everything is read from `numbers`, on the device."""
        ids, positions, slots, lengths, regimes = numbers[:, :_NUM_FIXED].unbind(1)
        if self._model.regime_length:
            self._model.set_regimes(regimes.bool())
        tensors = DecodeTensors(
            slots=slots.contiguous(), table=numbers[:, _NUM_FIXED:].int(), lengths=lengths.int()
        )
        output = self._model.decoder(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            step=self._attention.decode_step(tensors),
            kv_pages=self._cache,
        )
        return output.logits[0]

    def _numbers(self, batch: Batch[Sequence], layout: StepLayout) -> Numbers:
        """Return what a decoding step reads, shape (rows, fixed columns and pages)."""
        is_long = [one.rope_regime == "long" for one in batch]
        fixed = [_new_ids(batch), layout.past, layout.written(), layout.known, is_long]
        return np.column_stack([*fixed, layout.pages.clip(min=0)])

    def _layout(self, batch: Batch[Sequence]) -> StepLayout:
        past = np.array([one.num_computed for one in batch])
        new = np.array([one.num_new for one in batch])
        counts = -(-(past + new) // self._page_size)
        pages = np.full((len(batch), counts.max()), -1, np.int64)
        for row, (sequence, count) in enumerate(zip(batch, counts.tolist(), strict=True)):
            pages[row, :count] = sequence.pages[:count]
        return StepLayout(new=new, past=past, pages=pages, page_size=self._page_size)

    def _to_device(self, numbers: Numbers) -> torch.Tensor:
        tensor = torch.from_numpy(numbers)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _embed(self, ids: torch.Tensor, batch: Batch[Sequence], ends: Numbers) -> torch.Tensor:
        """Embed the new tokens, shape (tokens, hidden): words, and rows of media."""
        embedded = self._words(ids)
        for sequence, end in zip(batch, ends.tolist(), strict=True):
            first, last = sequence.num_computed, sequence.num_computed + sequence.num_new
            offset = end - last  # from a place in the sequence to one in the step
            media = {medium.slot.key: medium.rows for medium in sequence.media}
            for span in sequence.prompt.spans if not sequence.is_decoding else ():
                begin, stop = max(first, span.start), min(last, span.stop)
                if begin < stop:
                    rows = media[span.slot.key]
                    if rows is None:
                        raise ValueError(f"{span.slot.media.key} is not encoded")
                    part = rows[begin - span.start : stop - span.start]
                    embedded[offset + begin : offset + stop] = part
        return embedded


def kv_cache(
    model: Model, num_pages: int, page_size: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Allocate the keys and the values of every layer."""
    decoder = model.decoder
    sizes = Heads.of(decoder.config, decoder.device, decoder.dtype)
    shape = num_pages, page_size, sizes.num_key_heads, sizes.size

    def layers() -> list[torch.Tensor]:
        count = decoder.config.num_hidden_layers
        return [torch.zeros(shape, dtype=sizes.dtype, device=sizes.device) for _ in range(count)]

    return layers(), layers()


def _new_ids(batch: Batch[Sequence]) -> Numbers:
    """Return the ids of the new tokens, sequence after sequence; 0 at the rows of media."""
    parts: list[Numbers] = []
    for sequence in batch:
        first = sequence.num_computed
        ids = sequence.prompt.ids[first : first + sequence.num_new]
        parts.append(np.array([sequence.last_id]) if sequence.is_decoding else ids)
    return np.concatenate(parts)
