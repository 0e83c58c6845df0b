"""Tokens chosen inside vLLM are those that our own engines choose; here without vLLM."""

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from phicorpus.engine.engine import Guide, Request
from phicorpus.engine.vllm.export import Vocabulary
from phicorpus.engine.vllm.sampling import AnswerRow, BatchSampler, settings
from tests.engine.builders import BANNED_ID, STOP_ID, VOCABULARY, a_request, byte_level

CPU = torch.device("cpu")
BYTES = Vocabulary(
    size=VOCABULARY,
    stop_ids=(STOP_ID,),
    banned_ids=(BANNED_ID,),
    tokenizer=byte_level().to_str(),
)
SAMPLED = a_request("q", temperature=0.8, seed=3)


def some_scores(step: int) -> torch.Tensor:
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(step))


def begun(request: Request, token_ids: list[int]) -> AnswerRow:
    """As vLLM begins it: what is asked has been through a message."""
    row = BatchSampler(BYTES, CPU).row(json.loads(json.dumps(settings(request))), token_ids)
    assert row is not None
    return row


def answer(request: Request, *, asked_again_at: Sequence[int] = (), steps: int = 12) -> list[int]:
    """What a request's scores give; at some steps vLLM asks more than once."""
    sampler, token_ids = BatchSampler(BYTES, CPU), list[int]()
    row = begun(request, token_ids)
    for step in range(steps):
        asked = 3 if step in asked_again_at else 1
        drawn = [sampler.apply(some_scores(step), {0: row}).argmax() for _ in range(asked)]
        token_ids.append(int(drawn[-1]))
    return token_ids


def test_a_token_that_is_asked_for_again_is_drawn_again() -> None:
    assert answer(SAMPLED, asked_again_at=(0, 5)) == answer(SAMPLED)
    assert answer(SAMPLED) != answer(replace(SAMPLED, seed=4))


def test_an_answer_that_was_put_off_goes_on_as_it_would_have() -> None:
    whole = answer(SAMPLED)

    row = begun(SAMPLED, whole[:7])
    scores = BatchSampler(BYTES, CPU).apply(some_scores(7), {0: row})

    assert int(scores.argmax()) == whole[7]


def test_an_answer_matches_its_guide_and_is_free_when_complete() -> None:
    token_ids = answer(replace(a_request("q"), guide=Guide(choices=("yes", "no"))))

    text = bytes(token for token in token_ids if token < STOP_ID).decode("latin-1")
    assert text.startswith(("yes", "no"))
    assert len(set(token_ids)) > 6


def test_no_ngram_comes_twice() -> None:
    token_ids = answer(replace(a_request("q"), no_repeat_ngram=1), steps=60)

    assert len(set(token_ids)) == 60
    assert len(set(answer(SAMPLED, steps=60))) < 60


def test_greedy_rows_beside_others_lose_only_the_banned_ids() -> None:
    scores = torch.zeros(3, VOCABULARY)
    scores[:, BANNED_ID], scores[:, 7] = 9.0, 5.0
    row = begun(replace(a_request("q"), no_repeat_ngram=1), [7])

    steered = BatchSampler(BYTES, CPU).apply(scores, {1: row})

    assert steered.argmax(dim=1).tolist() == [7, 0, 7]


def test_a_plain_greedy_request_asks_nothing() -> None:
    assert settings(a_request("q")) == {}
    assert BatchSampler(BYTES, CPU).row(None, []) is None
