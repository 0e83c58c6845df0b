"""Choosing tokens: bans, guides, greedy choice, seeded sampling, and log-probabilities."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from phicorpus.engine.grammar import Bits, Matcher

_SMALLEST = 1e-20


class SeededDraw:
    """Draws tokens for one request; depends on its seed alone, not on the batch.

    argmax(scores / temperature + Gumbel noise) is a draw from softmax(scores / temperature)
    (Gumbel 1954; Maddison et al. 2014).

    Args:
        temperature: Above 0.
        seed: Of the noise.
        device: Where the scores are.
    """

    def __init__(self, *, temperature: float, seed: int, device: torch.device) -> None:
        self._temperature = temperature
        self._generator = torch.Generator(device=device).manual_seed(seed)

    @property
    def state(self) -> torch.Tensor:
        """The generator's state; set to an earlier one, the draws since then are repeated."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: torch.Tensor) -> None:
        self._generator.set_state(state)

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Draw from scores of shape (vocabulary,), float32; return the token id, shape ()."""
        uniform = torch.rand(scores.shape, generator=self._generator, device=scores.device)
        noise = -torch.log(-torch.log(uniform.clamp_(min=_SMALLEST)))
        return torch.argmax(scores / self._temperature + noise)


class NoRepeat:
    """Forbids tokens that would repeat n tokens of the answer.

    As `no_repeat_ngram_size` of transformers' `generate`, given embeddings: the prompt is free.

    Args:
        size: n, at least 1.

    Example:
        >>> no_repeat = NoRepeat(2)
        >>> for token in (5, 6, 5):
        ...     no_repeat.take(token)
        >>> no_repeat.forbidden()
        [6]
    """

    def __init__(self, size: int) -> None:
        self._before = size - 1
        self._token_ids: list[int] = []
        self._followed_by: dict[tuple[int, ...], list[int]] = {}

    def take(self, token_id: int) -> None:
        """Take the next token."""
        if len(self._token_ids) >= self._before:
            self._followed_by.setdefault(self._end(), []).append(token_id)
        self._token_ids.append(token_id)

    def forbidden(self) -> list[int]:
        """Return the ids that may not come next."""
        return self._followed_by.get(self._end(), [])

    def _end(self) -> tuple[int, ...]:
        return tuple(self._token_ids[len(self._token_ids) - self._before :])


class SamplingState:
    """Sampling of one answer's tokens; all None is greedy, from the whole vocabulary.

    Attributes:
        draw: Seeded sampling; None is greedy.
        matcher: What the answer has to match.
        no_repeat: Its n-grams; yields where the matcher leaves no other token.
    """

    def __init__(
        self,
        *,
        draw: SeededDraw | None = None,
        matcher: Matcher | None = None,
        no_repeat: NoRepeat | None = None,
    ) -> None:
        self.draw = draw
        self.matcher = matcher
        self.no_repeat = no_repeat

    def allowed(self) -> Bits | None:
        """Return one bit per id that may come next; None without a matcher."""
        if self.matcher is None:
            return None
        allowed = self.matcher.allowed()
        if self.no_repeat is None or not (forbidden := self.no_repeat.forbidden()):
            return allowed
        fewer = np.unpackbits(allowed, bitorder="little")
        fewer[forbidden] = 0
        return np.packbits(fewer, bitorder="little") if fewer.any() else allowed

    def forbidden(self) -> list[int]:
        """Return the ids that may not come next, where there is no matcher."""
        if self.no_repeat is None or self.matcher is not None:
            return []
        return self.no_repeat.forbidden()

    def take(self, token_id: int) -> bool:
        """Take the next token; return whether the matcher lets nothing follow."""
        if self.no_repeat is not None:
            self.no_repeat.take(token_id)
        return self.matcher is not None and self.matcher.take(token_id)

    @property
    def failure(self) -> str | None:
        """The reason why the answer cannot go on though it is not complete; None: it can."""
        return None if self.matcher is None else self.matcher.failure


class Sampler:
    """Chooses the next token of each row of a batch.

    Args:
        banned_ids: Ids that are never generated.
        device: Where the scores are.
    """

    def __init__(self, banned_ids: Collection[int], device: torch.device) -> None:
        self._banned = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=device)
        self._bit = torch.arange(8, dtype=torch.uint8, device=device)

    def choose(
        self, scores: torch.Tensor, states: Sequence[SamplingState | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change the scores so that argmax gives each row's token.

        Args:
            scores: shape (rows, vocabulary), float32 logits; changed in place.
            states: One per row; None is greedy.

        Returns:
            (scores, logprobs): scores, of which a sampled row holds its token alone; and ln p of
            each row's token, shape (rows,): the model's own, at temperature 1, whatever was
            forbidden besides the banned ids.
        """
        if self._banned.numel():
            scores.index_fill_(1, self._banned, -torch.inf)
        total = scores.logsumexp(dim=-1)
        special = [(row, state) for row, state in enumerate(states) if state is not None]
        self._restrict(scores, special)
        best = scores.amax(dim=-1)
        for row, state in special:
            if state.draw is not None:
                # Not as an index of `scores`, for which torch would wait for the device.
                chosen = state.draw.choose(scores[row])[None]
                best[row] = scores[row].index_select(0, chosen)[0]
                scores[row].fill_(-torch.inf).index_fill_(0, chosen, 0.0)
        return scores, best - total

    def _restrict(self, scores: torch.Tensor, special: Sequence[tuple[int, SamplingState]]) -> None:
        rows: list[int] = []
        masks: list[Bits] = []
        for row, state in special:
            allowed = state.allowed()
            if allowed is not None:
                rows.append(row)
                masks.append(allowed)
            elif forbidden := state.forbidden():
                places = _put(torch.tensor(forbidden), scores.device)
                scores[row].index_fill_(0, places, -torch.inf)
        if rows:
            packed = _put(torch.from_numpy(np.stack(masks)), scores.device)
            bits = (packed[:, :, None] >> self._bit & 1).flatten(1)[:, : scores.shape[1]]
            places = _put(torch.tensor(rows), scores.device)
            scores[places] = scores[places].masked_fill(bits == 0, -torch.inf)


def _put(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy values to a device, without waiting for what it computes."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
