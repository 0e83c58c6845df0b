"""Single steps of the engine's own model runner, ready to be run: rows that decode, and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Request
from phicorpus.engine.model_runner import ModelRunner
from phicorpus.engine.sequence import Prompt, Sequence
from phicorpus.models.model import Model

Run = Callable[[], torch.Tensor]
SPREAD = 1.0  # of the keys and values that are there already


class NoGraph:
    """A CUDA graph that cannot be captured: the runner then launches each kernel by itself."""

    def capture(self, forward: Callable[[], None]) -> None:
        raise RuntimeError(f"{forward} is measured without a graph")

    def replay(self) -> None:
        raise RuntimeError("there is nothing to replay")


class DecoderSteps:
    """Makes steps of one runner; sequences share no page, and there are tokens in all of them.

    Args:
        runner: Of the decoder.
        page_size: Tokens per page.
    """

    def __init__(self, runner: ModelRunner, page_size: int) -> None:
        self._runner = runner
        self._page_size = page_size

    def runs_on(self) -> str:
        """Return in words what steps run on, as far as is known by now."""
        return ", ".join(f"{name}: {value}" for name, value in self._runner.describe().items())

    def decode(self, rows: int, context: int) -> Run:
        """Return the step of so many rows, each with one new token behind so many others."""
        return self._run([self._sequence(row, context + 1, 1) for row in range(rows)])

    def prompt(self, tokens: int) -> Run:
        """Return the step of one prompt of so many tokens."""
        return self._run([self._sequence(0, tokens, tokens)])

    def mixed(self, rows: int, context: int, tokens: int) -> Run:
        """Return the step of rows that decode and of a prompt, of no more tokens than a row has."""
        decoding = [self._sequence(row, context + 1, 1) for row in range(rows)]
        prompt = self._sequence(rows, max(tokens, context + 1), tokens)
        prompt.num_computed = 0
        return self._run([*decoding, prompt])

    @staticmethod
    def ids(number: int, tokens: int) -> npt.NDArray[np.int64]:
        """Draw the token ids of a sequence."""
        return np.random.default_rng(number).integers(0, 200, tokens)

    def _sequence(self, number: int, tokens: int, new: int) -> Sequence:
        """Return a sequence whose last `new` of so many tokens are computed in the step."""
        ids = self.ids(number, tokens if new > 1 else 1).tolist()
        num_pages = -(-tokens // self._page_size)
        return Sequence(
            request=Request(request_id=str(number), turns=(), max_new_tokens=tokens),
            prompt=Prompt(ids),
            rope_regime="short",
            pages=np.arange(num_pages) + number * num_pages,
            num_computed=tokens - new,
            num_new=new,
            last_id=ids[0],
        )

    def _run(self, batch: list[Sequence]) -> Run:
        return lambda: self._runner.forward(batch)


@contextmanager
def decoder_steps(model: Model, config: EngineConfig, *, graphs: bool) -> Iterator[DecoderSteps]:
    """Start a runner, with tokens in its KV cache."""
    runner = ModelRunner(model, config, graphs=None if graphs else NoGraph)
    for layer in runner._cache:
        for values in layer:
            values.normal_(std=SPREAD)  # zeros would be read faster than what a run reads
    try:
        yield DecoderSteps(runner, config.page_size)
    finally:
        runner.release()
