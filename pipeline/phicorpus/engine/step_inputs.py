"""The decoder's inputs of each step, built by arrays instead of lists of every key's place.

Like `library_loop` and `attention`, this knows the inside of transformers' continuous batching. The
library's own builds Python lists of the places of all keys and values that a step reads: 18 ms at
64 requests of 3,400 tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.input_outputs import (
    ContinuousBatchingIOs,
    PagedAttentionArgs,
)
from transformers.generation.continuous_batching.requests import TMP_TOKEN_ID, FutureRequestState

from phicorpus.engine.cpu_attention import PagedStep, StepLayout


class StepInputs(ContinuousBatchingIOs):
    """The library's, for one kind of layer, without mask, padding, graphs and asynchronous steps.

    On a CPU attention reads the pages themselves, by a `PagedStep`; on CUDA by block tables where
    every sequence has one new token, else by the places of all keys.
    """

    @classmethod
    def of(cls, processor: ContinuousBatchProcessor) -> StepInputs:
        """Build the inputs of the library's processor, in place of its own."""
        return cls(
            cache=processor.cache,
            config=processor.config,
            continuous_batching_config=processor.cb_config,
            device=processor.model_device,
            model_dtype=processor.model_dtype,
            logit_processor=processor.logit_processor,
        )

    def prepare_batch_tensors(
        self,
        requests_in_batch: list[FutureRequestState],
        logits_processors: ContinuousBatchingLogitsProcessorList,
        use_decode_fast_path: bool,
        num_q_tokens: int,
        max_kv_read: int,
        use_padding: bool,
    ) -> None:
        """Build a step's inputs; each request moves on by its new tokens."""
        if not requests_in_batch or use_padding:
            raise ValueError("a step has requests, and no padding")
        on_cpu = self.device.type == "cpu"
        self.use_block_table = use_decode_fast_path and self.block_table.numel() > 0
        self.num_q_tokens = num_q_tokens
        self.max_kv_read = 0 if self.use_block_table or on_cpu else max_kv_read
        self.num_request_in_batch = len(requests_in_batch)
        self.requests_in_batch = list(requests_in_batch)
        layout = self._layout(requests_in_batch)
        input_ids: list[int] = []
        last: list[int] = []  # tokens whose logits are wanted
        for request in requests_in_batch:
            state = request.state
            state.position_offset += request.query_length
            input_ids.extend(state.tokens_to_process)
            if request.has_new_token:
                last.append(len(input_ids) - 1)
                state.tokens_to_process = [TMP_TOKEN_ID]
        logits_processors.prepare_tensor_args(
            requests_in_batch=requests_in_batch,
            arg_storage=self._bulk_input_tensor[self.static_inputs :],
        )
        self._num_logits = max(1, len(last))
        self._put(self.input_ids, input_ids)
        self._put(self.position_ids, layout.positions())
        self._put(self.logits_indices, last or [0])
        self._put_lengths(layout)
        self._step = PagedStep(layout, self.model_dtype) if on_cpu else None
        if not on_cpu:
            self._put_places(layout)

    def get_model_kwargs(self, use_padding: bool = False) -> PagedAttentionArgs:
        """Return the decoder's arguments of the step."""
        kwargs: Any = super().get_model_kwargs(use_padding)
        kwargs["logits_indices"] = self.logits_indices[: self._num_logits]
        if self._step is not None:
            kwargs["step"] = self._step
        return kwargs

    def _layout(self, requests: list[FutureRequestState]) -> StepLayout:
        (allocator,) = self.cache.cache_allocators.values()
        tables = [allocator.block_table[request.state.request_id] for request in requests]
        pages = np.full((len(tables), max(map(len, tables))), -1, np.int64)
        for row, table in enumerate(tables):
            pages[row, : len(table)] = table
        # A block holds the pages of all layers, keys and values; those of a layer begin at its own.
        stride = allocator.block_physical_stride // allocator.tokens_per_page
        return StepLayout(
            new=np.array([request.query_length for request in requests]),
            past=np.array([request.state.position_offset for request in requests]),
            pages=np.where(pages < 0, -1, pages * stride),
            page_size=allocator.tokens_per_page,
        )

    def _put_lengths(self, layout: StepLayout) -> None:
        ((kind, key_ends),) = self.cumulative_seqlens_k.items()
        self._put(self.cumulative_seqlens_q, np.append(0, layout.new.cumsum()))
        self._put(key_ends, np.append(0, layout.known.cumsum()))
        self.max_length_q, self.max_length_k[kind] = int(layout.new.max()), int(layout.known.max())
        self.total_seqlen_q = int(layout.new.sum())
        self.total_seqlen_k[kind] = int(layout.known.sum())
        self.true_write_sizes, self.true_read_sizes = [0], [0]

    def _put_places(self, layout: StepLayout) -> None:
        if self.use_block_table:
            rows, widest = layout.pages.shape
            table = np.full((rows, self.block_table.shape[2]), -1, np.int64)
            table[:, :widest] = layout.pages
            self._put(self.block_table[0], table)
            return
        self.true_write_sizes = [self._put(self.write_index_storage[0], layout.written())]
        if self.max_kv_read:
            self.true_read_sizes = [self._put(self.read_index_storage[0], layout.read())]

    def _put(self, storage: torch.Tensor, values: Any) -> int:  # noqa: ANN401 list or array
        """Copy to the front of a storage; done when it returns, whatever stream computes next."""
        tensor = torch.as_tensor(values, dtype=storage.dtype)
        storage[: tensor.shape[0]].copy_(tensor)
        return tensor.shape[0]
