"""What the engines are measured on: drawn requests, and a random decoder of any size."""

from __future__ import annotations

import asyncio
import os
import platform
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from phicorpus.engine.engine import Engine, Request
from phicorpus.models.model import Canvas, Modality, Slot, Tokenizer, Turn

QUESTION_TOKENS = 12
MAX_LENGTH = 8192
SMALL: Mapping[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
# Phi-4-multimodal's decoder.
FULL: Mapping[str, Any] = {
    "vocab_size": 200_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work: feature rows per asset, and answers, median and spread (log-normal)."""

    name: str
    rows: int
    answer: int
    spread: float
    longest: int
    tasks: int


WORKS = (
    Work("ocr, 1 task", rows=1800, answer=500, spread=0.8, longest=1600, tasks=1),
    Work("caption, 1 task", rows=1000, answer=70, spread=0.3, longest=160, tasks=1),
    Work("caption, 3 tasks", rows=1000, answer=70, spread=0.3, longest=160, tasks=3),
    Work("speech, 1 task", rows=280, answer=90, spread=0.5, longest=300, tasks=1),
)
MIXED = "all together"


class NoTokenizer:
    """Decoding text is not measured."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "" if skip_special_tokens else str(len(token_ids))


class RandomModel:
    """A random decoder; media are as many random rows as their canvas is wide.

    Args:
        sizes: Of the decoder.
        device: Of the decoder.
        dtype: Of the decoder.
    """

    name = "random"
    modality: Modality = "vision"
    stop_ids: frozenset[int] = frozenset()
    banned_ids: frozenset[int] = frozenset()
    max_length = MAX_LENGTH
    regime_length = 0

    def __init__(
        self, sizes: Mapping[str, Any], device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        torch.manual_seed(0)
        config = Phi3Config(
            **sizes, max_position_embeddings=MAX_LENGTH, sliding_window=None, pad_token_id=0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(device):
            self.decoder = Phi3ForCausalLM(config).eval()
        torch.set_default_dtype(default)
        self.tokenizer: Tokenizer = NoTokenizer()
        self.steps = 0
        self.forward_s = 0.0  # CPU-seconds of the decoder's thread in it
        self._started = 0.0
        self.decoder.register_forward_pre_hook(self._before)
        self.decoder.register_forward_hook(self._after)

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        prompt: list[int | Slot] = []
        for part in turns[0].content:
            if isinstance(part, str):
                prompt.extend(part.encode())
            elif isinstance(part, Canvas):
                prompt.append(Slot(part, "image", part.pixels.shape[1]))
        return prompt

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        like = self.decoder.lm_head.weight
        return [self._rows(slot).to(like.device, like.dtype) for slot in slots]

    def _rows(self, slot: Slot) -> torch.Tensor:
        """Rows that follow from the medium's key, so that every engine has the same to answer."""
        generator = torch.Generator().manual_seed(zlib.crc32(slot.media.key.encode()))
        width = self.decoder.config.hidden_size
        return 0.02 * torch.randn(slot.num_rows, width, generator=generator)

    def set_regime(self, regime: str) -> None:
        raise AssertionError(regime)

    def set_regimes(self, is_long: torch.Tensor) -> None:
        raise AssertionError(is_long)

    @property
    def weight_bytes(self) -> int:
        """Read once per step."""
        weights = cast("Any", self.decoder).parameters()
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def _before(self, *_: object) -> None:
        self._started = time.thread_time()

    def _after(self, *_: object) -> None:
        self.forward_s += time.thread_time() - self._started
        self.steps += 1


def draw(work: Work, num_requests: int, *, scale: int) -> list[Request]:
    """The requests of a kind of work, in random order; the same at each call.

    Args:
        work: The kind.
        num_requests: How many; `work.tasks` of them ask about one asset.
        scale: Real lengths are divided by it.
    """
    generator = np.random.default_rng(0)
    requests: list[Request] = []
    for number in range(num_requests):
        asset, task = divmod(number, work.tasks)
        rows = max(8, int(work.rows * (0.7 + 0.6 * (asset * 0.618 % 1))) // scale)
        pixels = np.zeros((1, rows, 3), np.uint8)
        canvas = Canvas(
            pixels=pixels, valid_width_px=1, valid_height_px=1, key=f"{work.name}: {asset}"
        )
        length = min(work.longest, generator.lognormal(np.log(work.answer), work.spread))
        requests.append(
            Request(
                request_id=f"{work.name}: {asset}.{task}",
                turns=(Turn("user", (canvas, chr(97 + task) * QUESTION_TOKENS)),),
                max_new_tokens=max(2, int(length) // scale),
            )
        )
    return [requests[index] for index in generator.permutation(len(requests))]


def draw_mixed(num_assets: int, *, scale: int) -> list[Request]:
    """Requests of all kinds of work in one random order, as many assets of each; always the same.

    Args:
        num_assets: Of all kinds together.
        scale: Real lengths are divided by it.
    """
    each = num_assets // len(WORKS)
    requests = [r for work in WORKS for r in draw(work, each * work.tasks, scale=scale)]
    order = np.random.default_rng(1).permutation(len(requests))
    return [requests[index] for index in order]


def sort_by_length(model: RandomModel, requests: Sequence[Request]) -> list[Request]:
    """Sort by the prompt's length, which is all that one knows beforehand."""
    return sorted(requests, key=lambda request: num_prompt_tokens(model, request))


def num_prompt_tokens(model: RandomModel, request: Request) -> int:
    """Ids and rows of a prompt."""
    parts = model.tokenize(request.turns)
    return sum(part.num_rows if isinstance(part, Slot) else 1 for part in parts)


def run_engine(engine: Engine, requests: Sequence[Request]) -> tuple[int, int]:
    """Submit all at once; gives output tokens and prompt tokens that were computed."""
    before = engine.stats().prefill_tokens

    async def gather() -> int:
        completions = await asyncio.gather(*map(engine.submit, requests))
        return sum(len(completion.token_ids) for completion in completions)

    return asyncio.run(gather()), engine.stats().prefill_tokens - before


def processor() -> str:
    """The machine, in words."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor()
    instructions = torch.backends.cpu.get_cpu_capability()  # what products and so much else take
    return f"{name} ({instructions}), {os.cpu_count()} CPUs, 1 torch thread"
