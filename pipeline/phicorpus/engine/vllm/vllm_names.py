"""The names of vLLM that are used here, and our logits processor inside it. Imports vLLM."""

from __future__ import annotations

from pathlib import Path

import torch
from vllm import SamplingParams  # type: ignore[import-not-found]  # vLLM is an extra
from vllm.config import VllmConfig  # type: ignore[import-not-found]
from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
from vllm.inputs.engine import embeds_input, tokens_input  # type: ignore[import-not-found]
from vllm.platforms import current_platform  # type: ignore[import-not-found]
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]
from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found]
from vllm.v1.engine.exceptions import (  # type: ignore[import-not-found]
    EngineDeadError,
    EngineGenerateError,
)
from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found]
    BatchUpdate,
    LogitsProcessor,
    process_dict_updates,
)

from phicorpus.engine.vllm.export import Vocabulary
from phicorpus.engine.vllm.sampling import KEY, AnswerRow, BatchSampler

__all__ = [
    "AsyncEngineArgs",
    "AsyncLLM",
    "EngineDeadError",
    "EngineGenerateError",
    "RequestOutputKind",
    "SamplingParams",
    "SamplingProcessor",
    "current_platform",
    "embeds_input",
    "tokens_input",
]


class SamplingProcessor(LogitsProcessor):
    """Chooses the tokens of vLLM's batch."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        device: torch.device,
        is_pin_memory: bool,  # noqa: ARG002 vLLM's signature
    ) -> None:
        self._sampler = BatchSampler(Vocabulary.read(Path(vllm_config.model_config.model)), device)
        self._rows: dict[int, AnswerRow] = {}

    def is_argmax_invariant(self) -> bool:
        """Return that greedy answers depend on it."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Take over the places of answers in the batch."""
        process_dict_updates(self._rows, batch_update, self._row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Change logits of shape (rows, vocabulary) so that argmax gives each row's token."""
        return self._sampler.apply(logits, self._rows)

    def _row(
        self, parameters: SamplingParams, _prompt: list[int] | None, token_ids: list[int]
    ) -> AnswerRow | None:
        return self._sampler.row((parameters.extra_args or {}).get(KEY), token_ids)
