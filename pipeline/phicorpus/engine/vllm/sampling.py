"""Chooses tokens inside vLLM as our own engines do. No vLLM here.

vLLM's own sampling, structured outputs and seeds would give other answers for one fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import asdict
from typing import Any

import torch
from tokenizers import Tokenizer as Backend

from phicorpus.engine.engine import Guide, Request
from phicorpus.engine.grammar import Grammars
from phicorpus.engine.sampling import NoRepeat, Sampler, SamplingState, SeededDraw
from phicorpus.engine.vllm.export import Vocabulary

KEY = "phicorpus"  # in vLLM's `SamplingParams.extra_args`


def settings(request: Request) -> dict[str, Any]:
    """Convert a request's sampling settings to plain values; empty where it is greedy."""
    asked: dict[str, Any] = {}
    if request.temperature > 0:
        asked |= {"temperature": request.temperature, "seed": request.seed}
    if request.no_repeat_ngram > 0:
        asked["no_repeat_ngram"] = request.no_repeat_ngram
    if request.guide is not None:
        asked["guide"] = asdict(request.guide)
    return asked


class AnswerRow:
    """One answer under way in vLLM's batch.

    vLLM asks for a token more than once where a prompt is computed in pieces, or again after it was
    put off; a draw is repeated then, so that the seed alone decides.

    Args:
        state: How the answer's tokens are chosen.
        token_ids: The answer, which vLLM appends to.
        vocabulary: Number of ids.
        device: Of the scores.
    """

    def __init__(
        self,
        state: SamplingState,
        token_ids: Sequence[int],
        *,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        self._state: SamplingState | None = state
        self._draw = state.draw
        self._token_ids = token_ids
        self._taken = 0
        self._drawn: tuple[int, torch.Tensor] | None = (
            None  # the token, and the generator before it
        )
        if self._draw is not None:
            for _ in token_ids:
                self._draw.choose(torch.zeros(vocabulary, device=device))

    def state(self) -> SamplingState | None:
        """Catch up with the answer's tokens, and return how the next one is chosen."""
        while self._state is not None and self._taken < len(self._token_ids):
            is_over = self._state.take(self._token_ids[self._taken])
            self._taken += 1
            if is_over:  # the engine ends the answer; until then any token will do
                self._state = None
        if self._draw is not None and self._state is not None:
            if self._drawn is not None and self._drawn[0] == self._taken:
                self._draw.state = self._drawn[1]
            else:
                self._drawn = (self._taken, self._draw.state)
        return self._state


class BatchSampler:
    """Chooses the tokens of a batch.

    Args:
        vocabulary: The model's.
        device: Of the scores.
    """

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._sampler = Sampler(vocabulary.banned_ids, device)
        self._grammars = Grammars(
            Backend.from_str(vocabulary.tokenizer) if vocabulary.tokenizer else None,
            stop_ids=vocabulary.stop_ids,
            vocabulary=vocabulary.size,
        )

    def row(
        self, asked: Mapping[str, Any] | None, token_ids: MutableSequence[int]
    ) -> AnswerRow | None:
        """Begin an answer, or go on with one; None: it is greedy.

        Args:
            asked: As `settings` wrote it.
            token_ids: The answer, which grows.
        """
        if not asked:
            return None
        draw = no_repeat = matcher = None
        if "temperature" in asked:
            draw = SeededDraw(
                temperature=asked["temperature"], seed=asked["seed"], device=self._device
            )
        if "no_repeat_ngram" in asked:
            no_repeat = NoRepeat(asked["no_repeat_ngram"])
        if "guide" in asked:
            guide = asked["guide"]
            matcher = self._grammars.matcher(
                Guide(
                    json_schema=guide["json_schema"],
                    regex=guide["regex"],
                    choices=tuple(guide["choices"]),
                )
            )
        state = SamplingState(draw=draw, matcher=matcher, no_repeat=no_repeat)
        return AnswerRow(state, token_ids, vocabulary=self._vocabulary.size, device=self._device)

    def apply(self, scores: torch.Tensor, rows: Mapping[int, AnswerRow]) -> torch.Tensor:
        """Change the scores so that argmax gives each row's token.

        Args:
            scores: shape (rows, vocabulary), float32 logits; changed in place.
            rows: By their place; one that is not there is greedy.
        """
        if not rows and not self._vocabulary.banned_ids:
            return scores
        states = [
            rows[place].state() if place in rows else None for place in range(scores.shape[0])
        ]
        return self._sampler.choose(scores, states)[0]
