"""vLLM as an engine: what every engine promises, on one small random decoder, and what is its own.

The tests share one vLLM, whose start takes half a minute. Static batches are the reference: every
answer has to be theirs, sampled and guided ones too.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from phicorpus.engine.engine import Completion, Guide, Request
from phicorpus.engine.vllm.engine import VllmEngine
from phicorpus.errors import EngineDied, InferError, RequestRefused
from tests.engine.builders import BANNED_ID, FakeModel, a_request, an_image, ask, complete, until
from tests.engine.static import StaticEngine
from tests.engine.test_contract import mixed_requests
from tests.engine.test_frontend import Unreadable
from tests.engine.test_guided import CHOICE, DATE, JSON
from tests.vllm.builders import HIDDEN, engine_config, needs_vllm

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(hidden=HIDDEN)


@pytest.fixture(scope="module")
def engine(model: FakeModel) -> Iterator[VllmEngine]:
    with closing(VllmEngine(model, engine_config())) as started:
        yield started


@pytest.fixture(scope="module")
def static() -> Iterator[StaticEngine]:
    with closing(StaticEngine(FakeModel(hidden=HIDDEN), engine_config())) as started:
        yield started


def tokens(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def test_mixed_requests_in_random_arrival_equal_static_batches(
    engine: VllmEngine, static: StaticEngine
) -> None:
    requests = mixed_requests(96, seed=2)
    draw = np.random.default_rng(2)

    async def arrive(request: Request) -> Completion:
        await asyncio.sleep(draw.random() * 0.5)
        return await engine.submit(request)

    async def gather() -> list[Completion]:
        return await asyncio.gather(*map(arrive, requests))

    answers = asyncio.run(gather())

    assert tokens(answers) == tokens(complete(static, requests))
    assert len(set(tokens(answers))) > 70
    assert all(BANNED_ID not in answer.token_ids for answer in answers)


def test_completions_are_those_of_static_batches_in_every_field(
    engine: VllmEngine, static: StaticEngine
) -> None:
    image = an_image("a")
    requests = [
        a_request("x", new=3),
        a_request("q", image, new=40),
        a_request("q", new=20, temperature=0.9, seed=1),
        a_request("q", new=20, temperature=0.9, seed=2),
        a_request("hot", new=20, temperature=5.0, seed=3),
        replace(a_request("again", new=60), no_repeat_ngram=2),
        replace(a_request("kind", image, new=80), guide=JSON),
        replace(a_request("day", new=20), guide=DATE),
        replace(a_request("well", new=20), guide=CHOICE),
        replace(a_request("drawn", new=80, temperature=0.7, seed=5), guide=JSON),
    ]

    answers = complete(engine, requests)

    for answer, expected in zip(answers, complete(static, requests), strict=True):
        assert answer.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4)
        assert replace(answer, mean_logprob=0.0) == replace(expected, mean_logprob=0.0)
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}


def test_seeds_decide_the_sampling_whatever_the_batch(engine: VllmEngine) -> None:
    long = "a prompt that is computed in several pieces beside the others; " * 6
    sampled = [a_request(long, new=20, temperature=0.9, seed=seed) for seed in (1, 2)]

    alone = [complete(engine, [request])[0] for request in sampled]
    together = complete(engine, [*mixed_requests(24), *sampled])

    assert tokens(together[-2:]) == tokens(alone)
    assert alone[0].token_ids != alone[1].token_ids


def test_a_guided_neighbour_changes_nobodys_answer(
    engine: VllmEngine, static: StaticEngine
) -> None:
    plain = mixed_requests(16, seed=2)
    guided = [replace(a_request("g" * n, new=60), guide=JSON) for n in range(1, 9)]

    together = complete(engine, [*guided, *plain])

    assert tokens(together[8:]) == tokens(complete(static, plain))


def test_stop_texts_end_the_answer_and_are_cut_off(engine: VllmEngine) -> None:
    request = a_request("q", new=30)
    (whole,) = complete(engine, [request])
    stop = whole.text[10:12]

    (stopped,) = complete(engine, [replace(request, stop=("never there", stop))])

    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < len(whole.token_ids)


def test_a_loop_is_cut_where_static_batches_cut_it(
    engine: VllmEngine, static: StaticEngine
) -> None:
    request = replace(a_request("loop", new=400), guide=Guide(regex="(abc){200}"))

    (looped,) = complete(engine, [request])

    assert looped.finish_reason == "loop"
    assert tokens([looped]) == tokens(complete(static, [request]))


def test_bad_requests_are_refused_and_hurt_nobody(engine: VllmEngine, static: StaticEngine) -> None:
    good = a_request("good", new=10)
    bad = [
        Request(request_id="empty", turns=(), max_new_tokens=4),
        a_request("x", new=0, name="none"),
        a_request("x" * 500, new=40, name="long"),
        a_request(an_image("foreign"), name="media"),
    ]

    replies = ask(engine, [*bad, good])

    assert [type(reply) for reply in replies] == [RequestRefused] * 4 + [Completion]
    assert "max_length is 512" in str(replies[2])
    assert replies[4:] == complete(engine, [good])
    assert tokens(complete(engine, [good])) == tokens(complete(static, [good]))


def test_what_cannot_be_encoded_or_overflows_fails_only_its_requests(
    engine: VllmEngine, static: StaticEngine, model: FakeModel
) -> None:
    model.fail_encode.add("bad")
    model.overflows.add("loud")
    requests = [
        a_request(an_image("good"), "one"),
        a_request(an_image("bad"), "one"),
        a_request(an_image("good"), an_image("bad"), "two"),
        a_request(an_image("loud"), "one"),
        a_request("text"),
    ]

    replies = ask(engine, requests)
    model.fail_encode.clear()
    model.overflows.clear()

    assert [isinstance(reply, InferError) for reply in replies] == [0, 1, 1, 1, 0]
    assert "bad" in str(replies[1])
    assert "nan" in str(replies[3])
    assert tokens(complete(engine, requests)) == tokens(complete(static, requests))


def test_tasks_about_one_image_share_its_prefix(engine: VllmEngine) -> None:
    image = an_image("shared", rows=256)
    before = engine.stats()

    complete(engine, [a_request(image, task, new=4) for task in ("read", "tell", "count")])

    after = engine.stats()
    prompts = after.prompt_tokens - before.prompt_tokens
    assert after.media_encoded - before.media_encoded == 1
    assert prompts > 3 * 256
    assert after.prefill_tokens - before.prefill_tokens < prompts / 2
    assert engine.capabilities.shares_prefixes


def test_cancelled_requests_make_room_and_hurt_nobody(
    engine: VllmEngine, static: StaticEngine
) -> None:
    requests = [a_request("q" * index, new=60, name=str(index)) for index in range(1, 49)]

    async def cancel_some() -> list[Completion | BaseException]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await until(lambda: engine.stats().num_running > 0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(cancel_some())
    complete(engine, [a_request("after", new=2)])

    kept = [reply for reply in replies[1::2] if isinstance(reply, Completion)]
    assert tokens(kept) == tokens(complete(static, requests[1::2]))
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_requests == stats.num_completed + stats.num_failed


def test_requests_cancelled_by_their_ids_end_with_the_beginning_of_their_answers(
    engine: VllmEngine, static: StaticEngine
) -> None:
    media = [(an_image(f"{index % 5}"),) if index % 3 == 0 else () for index in range(48)]
    requests = [
        a_request(*medium, "q" * (1 + index), new=60, name=str(index))
        for index, medium in enumerate(media)
    ]

    async def cancel_some() -> tuple[list[bool], list[Completion]]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await until(lambda: engine.stats().num_running > 0)
        told = [index % 2 == 0 and engine.cancel(str(index)) for index in range(48)]
        return told, await asyncio.gather(*tasks)

    told, answers = asyncio.run(cancel_some())

    assert any(told)
    for was_told, answer, whole in zip(told, answers, complete(static, requests), strict=True):
        assert (answer.finish_reason == "cancelled") == was_told
        count = len(answer.token_ids) if was_told else None
        assert answer.token_ids == whole.token_ids[:count]
    assert not engine.cancel("unknown")
    stats = engine.stats()
    held = stats.extra["feature_rows"]
    assert (stats.num_running, stats.num_waiting, held) == (0, 0, 0)
    assert stats.num_requests == stats.num_completed + stats.num_failed


def test_a_defect_of_ours_leaves_nobody_waiting(engine: VllmEngine, model: FakeModel) -> None:
    model.tokenizer = Unreadable()

    (reply,) = ask(engine, [a_request("q", stop=("end",))])
    (late,) = ask(engine, [a_request("late")])

    assert isinstance(reply, EngineDied)
    assert "LookupError" in str(reply)
    assert isinstance(late, EngineDied)
