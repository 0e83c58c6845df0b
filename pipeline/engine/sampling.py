"""Which token comes next: bans, greedy choice, seeded sampling, and its log-probability."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

_SMALLEST = 1e-20


class Sampler:
    """Draws tokens for one request; the draw depends on its seed alone, not on the batch.

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

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Draw from scores of shape (vocabulary,), float32; the token id, shape ()."""
        uniform = torch.rand(scores.shape, generator=self._generator, device=scores.device)
        noise = -torch.log(-torch.log(uniform.clamp_(min=_SMALLEST)))
        return torch.argmax(scores / self._temperature + noise)


class Steering:
    """Chooses the next token of each row of a batch.

    Args:
        banned_ids: Ids that are never generated.
        device: Where the scores are.
    """

    def __init__(self, banned_ids: Collection[int], device: torch.device) -> None:
        self._banned = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=device)

    def steer(
        self, scores: torch.Tensor, samplers: Sequence[Sampler | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make argmax give each row's token.

        Args:
            scores: shape (rows, vocabulary), float32 logits; changed in place.
            samplers: One per row; None is greedy.

        Returns:
            (scores, logprobs): scores, of which a sampled row holds its token alone; and ln p of
            each row's token, shape (rows,), at temperature 1 and without the banned ids.
        """
        if self._banned.numel():
            scores.index_fill_(1, self._banned, -torch.inf)
        total = scores.logsumexp(dim=-1)
        best = scores.amax(dim=-1)
        for row, sampler in enumerate(samplers):
            if sampler is not None:
                chosen = sampler.choose(scores[row])
                best[row] = scores[row, chosen]
                scores[row] = -torch.inf
                scores[row, chosen] = 0.0
        return scores, best - total
