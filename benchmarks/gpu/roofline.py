"""The least that an asset takes: operations of products, and bytes of weights, keys and values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.device import Ceilings
from benchmarks.gpu.model import kv_token_bytes
from benchmarks.gpu.steps import flop
from benchmarks.gpu.work import Work
from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Request
from phicorpus.models.model import Slot
from phicorpus.models.phi4_multimodal.model import Phi4Multimodal


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least that one asset with all its tasks takes.

    Attributes:
        prompt_flop: Products of the prompts' tokens; tasks share the rows of their asset.
        encoder_flop: Products of the encoder.
        weight_bytes: Read once a step, by as many requests as may run together.
        key_bytes: Keys and values, read at each token of an answer.
    """

    prompt_flop: float
    encoder_flop: float
    weight_bytes: float
    key_bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """Return how long that takes, one thing after the other."""
        products = (self.prompt_flop + self.encoder_flop) / (ceilings.tflops * 1e12)
        return products + (self.weight_bytes + self.key_bytes) / (ceilings.gb_s * 1e9)


def least(
    model: Phi4Multimodal, work: Work, config: EngineConfig, asked: Sequence[Request]
) -> Least:
    """Count it.

    Args:
        model: With the work's encoder.
        work: The kind.
        config: Bounds the requests that run together.
        asked: A sample; their answers run to their full length.
    """
    decoder = model.decoder
    sizes, head = decoder.config, decoder.lm_head.weight
    weights = sum(weight.numel() for weight in decoder.model.layers.parameters())
    parts = model.tokenize(asked[0].turns)
    slots = [part for part in parts if isinstance(part, Slot)]
    words = len(parts) - len(slots)
    prompt = words + sum(slot.num_rows for slot in slots)
    answer = statistics.mean(request.max_new_tokens for request in asked)
    together = min(config.max_requests, config.kv_cache_tokens / (prompt + answer))
    tokens = prompt + (work.tasks - 1) * words
    attention = 2 * prompt**2 * sizes.hidden_size * sizes.num_hidden_layers  # half of it is masked
    answers = work.tasks * answer
    return Least(
        prompt_flop=2 * weights * tokens + attention,
        encoder_flop=flop(lambda: model.encode(slots)),
        weight_bytes=answers / together * (weights + head.numel()) * head.element_size(),
        key_bytes=answers * (prompt + answer / 2) * kv_token_bytes(model),
    )
