"""What every engine promises, on a small random decoder."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.errors import EngineDied, InferError, RequestRefused
from phicorpus.models.model import Model, Slot
from tests.engine.builders import (
    BANNED_ID,
    FakeModel,
    a_clip,
    a_config,
    a_request,
    an_image,
    ask,
    complete,
    engine_threads,
    reference,
)

pytestmark = pytest.mark.slow

Load = Callable[[Model, EngineConfig], Engine]


def mixed_requests(count: int, seed: int = 1) -> list[Request]:
    """Text, one image, two media, images shared by several requests; stop by length or stop id."""
    draw = np.random.default_rng(seed)
    images = [
        an_image(f"image {index}", rows=int(draw.integers(3, 41))) for index in range(count // 4)
    ]
    requests: list[Request] = []
    for index in range(count):
        text = "q" * int(draw.integers(1, 41)) + str(index)
        content = {
            0: (text,),
            1: (images[index % len(images)], text),
            2: (images[index % len(images)], text),
            3: (images[index % len(images)], "and", a_clip(f"clip {index}"), text),
        }[index % 4]
        requests.append(a_request(*content, new=int(draw.integers(1, 41)), name=f"r{index}"))
    return requests


def test_mixed_requests_in_random_arrival_equal_plain_generate(load: Load) -> None:
    model = FakeModel()
    engine = load(model, a_config())
    requests = mixed_requests(64)
    draw = np.random.default_rng(2)

    async def arrive(request: Request) -> list[int]:
        await asyncio.sleep(draw.random() * 0.2)
        return list((await engine.submit(request)).token_ids)

    async def gather() -> list[list[int]]:
        return await asyncio.gather(*map(arrive, requests))

    answers = asyncio.run(gather())

    assert answers == [reference(request) for request in requests]
    assert len({tuple(answer) for answer in answers}) > 50
    assert all(BANNED_ID not in answer for answer in answers)
    engine.close()
    assert "is_causal" not in vars(model.decoder.config)
    assert model.decoder.config._attn_implementation == "sdpa"


def test_a_completion_says_how_it_ended_and_how_sure_it_was(load: Load) -> None:
    engine = load(FakeModel(), a_config())

    short, long = complete(engine, [a_request("x", new=3), a_request("q", an_image("a"), new=40)])

    assert (short.finish_reason, len(short.token_ids)) == ("length", 3)
    assert short.prompt_tokens == 3
    assert long.prompt_tokens == 12 + 3
    assert short.mean_logprob is not None
    assert -6 < short.mean_logprob < 0


def test_stop_texts_end_the_answer_and_are_cut_off(load: Load) -> None:
    engine = load(FakeModel(stops=False), a_config())
    (whole,) = complete(engine, [a_request("x", new=30)])
    stop = whole.text[10:12]

    (stopped,) = complete(engine, [a_request("x", new=30, stop=("never there", stop))])

    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < 30


def test_bad_requests_are_refused_and_hurt_nobody(load: Load) -> None:
    engine = load(FakeModel(), a_config(cache=256))
    good = a_request("good", new=10)

    replies = ask(
        engine,
        [
            Request(request_id="empty", turns=(), max_new_tokens=4),
            a_request("x", new=0, name="none"),
            a_request("x" * 500, new=40, name="long"),
            a_request("x" * 300, new=40, name="cache"),
            a_request(an_image("foreign"), name="media"),
            good,
        ],
    )

    assert [type(reply) for reply in replies[:5]] == [RequestRefused] * 5
    assert "max_length is 512" in str(replies[2])
    assert "kv_cache_tokens" in str(replies[3])
    assert list(complete(engine, [good])[0].token_ids) == reference(good)
    assert engine.stats().num_failed == 5


def test_an_encode_failure_fails_only_its_requests(load: Load) -> None:
    model = FakeModel()
    model.fail_encode = {"bad"}
    engine = load(model, a_config())
    requests = [
        a_request(an_image("good"), "one"),
        a_request(an_image("bad"), "one"),
        a_request(an_image("good"), an_image("bad"), "two"),
        a_request("text"),
        a_request(an_image("fine"), "one"),
    ]

    replies = ask(engine, requests)

    assert [isinstance(reply, InferError) for reply in replies] == [0, 1, 1, 0, 0]
    assert "bad" in str(replies[1])
    model.fail_encode.clear()
    assert [list(c.token_ids) for c in complete(engine, requests)] == list(map(reference, requests))


class LosesItsDevice(FakeModel):
    """A model whose device gives nothing but errors after a fault in one of its parts."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._is_lost = False
        self.decoder.register_forward_pre_hook(lambda *_: self._use("decoder", self.num_forwards))

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        self._use("encoder", len(self.encoded))
        return super().encode(slots)

    def _use(self, part: str, times: int) -> None:
        self._is_lost |= part == self._where and times == 2
        if self._is_lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_a_lost_device_ends_the_engine_and_is_nobodys_error(load: Load, where: str) -> None:
    engine = load(LosesItsDevice(where), a_config())
    requests = [a_request(an_image(f"image {index}"), "q" * index) for index in range(20)]

    replies = ask(engine, requests)

    assert any(isinstance(reply, EngineDied) for reply in replies)
    assert all(isinstance(reply, Completion | EngineDied) for reply in replies)
    (late,) = ask(engine, [a_request("late")])
    assert isinstance(late, EngineDied)
    assert "illegal memory access" in str(late)
    engine.close()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (0, 0)


def test_what_overflows_is_an_error_and_no_text(load: Load) -> None:
    model = FakeModel()
    model.overflows.add("loud")
    engine = load(model, a_config())
    requests = [a_request(an_image(key), "q") for key in ("quiet", "loud", "silent")]

    replies = ask(engine, requests)

    assert isinstance(replies[1], InferError)
    assert "nan" in str(replies[1])
    for index in (0, 2):
        reply = replies[index]
        assert isinstance(reply, Completion)
        assert list(reply.token_ids) == reference(requests[index])


def test_an_answer_that_is_over_stays_what_it_is_whatever_its_row_computes_then(
    load: Load,
) -> None:
    model = FakeModel(stops=False)
    engine = load(model, a_config())
    short, long = a_request("short", new=3), a_request("long", new=20)

    def overflow(_module: object, _args: object, scores: torch.Tensor) -> None:
        if model.num_forwards == 10 and scores.shape[0] == 2:  # a padded batch computes both rows
            scores[0] = torch.nan

    model.decoder.lm_head.register_forward_hook(overflow)
    completions = complete(engine, [short, long])

    expected = [reference(request, stops=False) for request in (short, long)]
    assert [list(completion.token_ids) for completion in completions] == expected


def test_seeds_decide_the_sampling_whatever_the_batch(load: Load) -> None:
    engine = load(FakeModel(), a_config())
    sampled = [a_request("q", new=20, temperature=0.9, seed=seed) for seed in (1, 2)]
    greedy = a_request("q", new=20)

    alone = [complete(engine, [request])[0].token_ids for request in sampled]
    together = complete(engine, [*mixed_requests(12), *sampled, greedy])

    assert [completion.token_ids for completion in together[-3:-1]] == alone
    assert alone[0] != alone[1]
    assert list(together[-1].token_ids) == reference(greedy)


def test_log_probabilities_of_sampled_tokens_are_the_models_own(load: Load) -> None:
    engine = load(FakeModel(), a_config())

    hot, greedy = complete(
        engine, [a_request("q", new=20, temperature=5.0, seed=3), a_request("q", new=20)]
    )

    assert hot.mean_logprob is not None
    assert greedy.mean_logprob is not None
    assert hot.mean_logprob < greedy.mean_logprob < 0


def test_mixed_regimes_answer_as_each_alone(load: Load) -> None:
    model = FakeModel(regime_length=40)
    engine = load(model, a_config())
    requests = [
        a_request(an_image(f"image {index % 4}"), "q" * (1 + index), new=10) for index in range(24)
    ]

    completions = complete(engine, requests)

    assert {completion.regime for completion in completions} == {"short", "long"}
    for request, completion in zip(requests, completions, strict=True):
        assert completion.regime == ("short" if completion.prompt_tokens + 10 <= 40 else "long")
        assert list(completion.token_ids) == reference(request, regime=completion.regime)
    assert len(model.regimes) < 8


def test_a_fatal_error_is_retried_and_every_caller_answered(load: Load) -> None:
    engine = load(FakeModel(fail_forward=[4]), a_config())
    requests = mixed_requests(24)

    completions = complete(engine, requests)

    assert [list(c.token_ids) for c in completions] == list(map(reference, requests))
    assert engine.capabilities.recovers


def test_cancelled_requests_make_room_and_hurt_nobody(load: Load) -> None:
    model = FakeModel(stops=False)
    begun = model.has_begun(10)
    engine = load(model, a_config(requests=4))
    requests = [a_request("q" * index, new=60, name=str(index)) for index in range(1, 13)]

    async def cancel_some() -> list[object]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await asyncio.to_thread(begun.wait, 60)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(cancel_some())

    expected = [reference(request, stops=False) for request in requests[1::2]]
    assert [list(reply.token_ids) for reply in replies[1::2]] == expected  # type: ignore[attr-defined]
    complete(engine, [a_request("after", new=2)])
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_requests == stats.num_completed + stats.num_failed


def test_a_deadline_ends_an_answer_with_what_is_there(load: Load) -> None:
    engine = load(FakeModel(stops=False), a_config(deadline_s=0.02))

    (completion,) = complete(engine, [a_request("q", new=400)])

    assert completion.finish_reason == "deadline"
    assert 0 < len(completion.token_ids) < 400


def test_a_closed_engine_refuses_and_answers_who_waits(load: Load) -> None:
    model = FakeModel(stops=False)
    begun = model.has_begun(3)
    engine = load(model, a_config(requests=1))

    async def close_meanwhile() -> list[object]:
        tasks = [asyncio.create_task(engine.submit(a_request("q", new=400))) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(close_meanwhile())
    engine.close()

    assert all(isinstance(reply, EngineDied) for reply in replies[1:])
    assert isinstance(ask(engine, [a_request("late")])[0], EngineDied)
    assert engine_threads() == []


class SlowEyes(FakeModel):
    """A model that takes its time to encode."""

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        time.sleep(0.2)
        return super().encode(slots)


def test_an_engine_tells_for_how_long_it_decoded_and_encoded(load: Load) -> None:
    engine = load(SlowEyes(), a_config())
    started = engine.stats()

    complete(engine, [a_request("x", new=20)])
    read = engine.stats()
    complete(engine, [a_request(an_image("a"), new=1)])
    seen = engine.stats()

    assert started.busy_s == 0 < read.busy_s < read.loaded_s
    assert seen.busy_s - read.busy_s >= 0.2
    assert engine.stats().busy_s == seen.busy_s < seen.loaded_s  # nothing is to be done


def test_a_decoder_that_looks_back_over_a_window_answers_as_by_generate(load: Load) -> None:
    def a_model() -> FakeModel:
        model = FakeModel(stops=False)
        cast("Any", model.decoder.config).sliding_window = 24
        for layer in model.decoder.model.layers:
            cast("Any", layer).self_attn.sliding_window = 24
        return model

    requests = [a_request("window " * (1 + index), new=20, name=f"{index}") for index in range(8)]
    engine = load(a_model(), a_config(batch_tokens=32))

    answers = [list(one.token_ids) for one in complete(engine, requests)]

    decoder = cast("Any", a_model().decoder)
    for request, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([FakeModel().tokenize(request.turns)])
        whole = decoder.generate(
            ids, max_new_tokens=20, do_sample=False, eos_token_id=None, suppress_tokens=[BANNED_ID]
        )
        assert answer == whole[0, ids.shape[1] :].tolist()
    assert answers != [reference(request, stops=False) for request in requests]
