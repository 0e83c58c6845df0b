"""Choosing tokens inside vLLM as our own engines do. No vLLM.

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
from phicorpus.engine.sampling import Chooser, NoRepeat, Sampler, Steering
from phicorpus.engine.vllm.export import Vocabulary

KEY = "phicorpus"  # in vLLM's `SamplingParams.extra_args`


def settings(request: Request) -> dict[str, Any]:
    """Write what a request asks of the choice as plain values; empty: nothing."""
    asked: dict[str, Any] = {}
    if request.temperature > 0:
        asked |= {"temperature": request.temperature, "seed": request.seed}
    if request.no_repeat_ngram > 0:
        asked["no_repeat_ngram"] = request.no_repeat_ngram
    if request.guide is not None:
        asked["guide"] = asdict(request.guide)
    return asked


class Row:
    """One answer under way in vLLM's batch.

    vLLM asks for a token more than once where a prompt is computed in pieces, or again after it was
    put off; a draw is repeated then, so that the seed alone decides.

    Args:
        chooser: Of the answer's tokens.
        token_ids: The answer, which vLLM appends to.
        vocabulary: Number of ids.
        device: Of the scores.
    """

    def __init__(
        self,
        chooser: Chooser,
        token_ids: Sequence[int],
        *,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        self._chooser: Chooser | None = chooser
        self._sampler = chooser.sampler
        self._token_ids = token_ids
        self._taken = 0
        self._drawn: tuple[int, torch.Tensor] | None = None  # at which token, and from what state
        if self._sampler is not None:
            for _ in token_ids:
                self._sampler.choose(torch.zeros(vocabulary, device=device))

    def chooser(self) -> Chooser | None:
        """Follow the answer up to its end, and give what chooses the next token."""
        while self._chooser is not None and self._taken < len(self._token_ids):
            over = self._chooser.take(self._token_ids[self._taken])
            self._taken += 1
            if over:  # whoever follows the answer ends it; until then any token will do
                self._chooser = None
        if self._sampler is not None and self._chooser is not None:
            if self._drawn is not None and self._drawn[0] == self._taken:
                self._sampler.state = self._drawn[1]
            else:
                self._drawn = (self._taken, self._sampler.state)
        return self._chooser


class Choice:
    """Chooses the tokens of a batch.

    Args:
        vocabulary: The model's.
        device: Of the scores.
    """

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._steering = Steering(vocabulary.banned_ids, device)
        self._grammars = Grammars(
            Backend.from_str(vocabulary.tokenizer) if vocabulary.tokenizer else None,
            stop_ids=vocabulary.stop_ids,
            vocabulary=vocabulary.size,
        )

    def row(self, asked: Mapping[str, Any] | None, token_ids: MutableSequence[int]) -> Row | None:
        """Begin an answer, or go on with one; None: it is greedy.

        Args:
            asked: As `settings` wrote it.
            token_ids: The answer, which grows.
        """
        if not asked:
            return None
        sampler = no_repeat = matcher = None
        if "temperature" in asked:
            sampler = Sampler(
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
        chooser = Chooser(sampler=sampler, matcher=matcher, no_repeat=no_repeat)
        return Row(chooser, token_ids, vocabulary=self._vocabulary.size, device=self._device)

    def apply(self, scores: torch.Tensor, rows: Mapping[int, Row]) -> torch.Tensor:
        """Make argmax give each row's token.

        Args:
            scores: shape (rows, vocabulary), float32 logits; changed in place.
            rows: By their place; one that is not there is greedy.
        """
        if not rows and not self._vocabulary.banned_ids:
            return scores
        choosers = [
            rows[place].chooser() if place in rows else None for place in range(scores.shape[0])
        ]
        return self._steering.steer(scores, choosers)[0]
