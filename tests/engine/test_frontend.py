"""Everybody who asks gets one answer and is counted once, whatever happens meanwhile."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Completion, Engine, Guide, Request
from phicorpus.errors import EngineDied, InferError, RequestRefused
from phicorpus.models.model import Model, Slot
from tests.engine.builders import (
    ByteTokenizer,
    FakeModel,
    a_config,
    a_request,
    an_image,
    ask,
    complete,
    num_open,
    reference,
    until,
)

Load = Callable[[Model, EngineConfig], Engine]
Reply = Completion | BaseException


class Gated(FakeModel):
    """Its encoder waits until it may go on."""

    def __init__(self) -> None:
        super().__init__(stops=False)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        self.begun.set()
        assert self.may_go_on.wait(60)
        return super().encode(slots)


class Hoarder(FakeModel):
    """Its encoder fails on several media at once, as one whose memory is used up."""

    def __init__(self) -> None:
        super().__init__()
        self.held: weakref.ref[torch.Tensor] | None = None
        self.was_freed: list[bool] = []
        self.all_wait = threading.Event()

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        if not self.encoded:
            assert self.all_wait.wait(60)  # so that the others come together
        if len(slots) > 1:
            large = torch.zeros(1000)
            self.held = weakref.ref(large)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.held is not None:
            self.was_freed.append(self.held() is None)
        return super().encode(slots)


class Unreadable(ByteTokenizer):
    """A tokenizer with a defect."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        raise LookupError(f"{len(token_ids)} tokens, {skip_special_tokens}")


def assert_all_are_counted(engine: Engine) -> None:
    stats = engine.stats()
    assert stats.num_requests == stats.num_completed + stats.num_failed
    assert (stats.num_running, stats.num_waiting) == (0, 0)


def test_who_submits_while_the_engine_closes_is_answered(load: Load) -> None:
    engine = load(FakeModel(stops=False), a_config(requests=4))
    closing = threading.Event()
    replies: list[Reply] = []

    def caller(number: int) -> None:
        for turn in range(12):
            replies.extend(ask(engine, [a_request("q" * (turn + 1), new=8, name=f"{number}")]))
            if turn == 1:
                closing.set()

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(caller, number) for number in range(4)]
        closing.wait(60)
        engine.close()
        for one in callers:
            one.result(timeout=60)

    assert len(replies) == 4 * 12
    assert {type(reply) for reply in replies} == {Completion, EngineDied}
    assert_all_are_counted(engine)


def test_a_caller_who_leaves_while_his_medium_is_encoded_costs_no_answer(load: Load) -> None:
    model = Gated()
    engine = load(model, a_config())
    both = [a_request(an_image("a"), "q", new=400), a_request(an_image("a"), "qq", new=6)]

    async def leave() -> list[Reply]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in both]
        await asyncio.to_thread(model.begun.wait, 60)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        model.may_go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    left, stayed = asyncio.run(leave())
    complete(engine, [a_request("after", new=2)])

    assert isinstance(left, asyncio.CancelledError)
    assert isinstance(stayed, Completion)
    assert list(stayed.token_ids) == reference(both[1], stops=False)
    assert model.num_forwards < 60  # of 400, had he been answered
    assert_all_are_counted(engine)


def test_what_a_failed_batch_of_media_held_is_free_before_each_is_tried_alone(load: Load) -> None:
    model = Hoarder()
    engine = load(model, a_config())
    requests = [a_request(an_image(f"{n}"), "q") for n in range(4)]

    async def run() -> list[Completion]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await until(lambda: num_open(engine) == len(requests))
        model.all_wait.set()
        return await asyncio.gather(*tasks)

    completions = asyncio.run(run())

    assert [list(one.token_ids) for one in completions] == list(map(reference, requests))
    assert model.was_freed
    assert all(model.was_freed)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_no_generator_takes_is_refused_and_hurts_nobody(load: Load, seed: int) -> None:
    engine = load(FakeModel(), a_config())
    bad = a_request("q", temperature=0.5, seed=seed)
    good = a_request("good", new=10)

    refused, answered = ask(engine, [bad, good])

    assert isinstance(refused, RequestRefused)
    assert "seed" in str(refused)
    assert isinstance(answered, Completion)
    assert list(answered.token_ids) == reference(good)


@pytest.mark.parametrize(
    "bad",
    [a_request("half \ud800"), replace(a_request("q"), guide=Guide(choices=("half \ud800",)))],
    ids=["prompt", "guide"],
)
def test_half_a_character_is_refused(load: Load, bad: Request) -> None:
    engine = load(FakeModel(), a_config())

    (refused,) = ask(engine, [bad])

    assert isinstance(refused, RequestRefused)
    assert_all_are_counted(engine)


@pytest.mark.parametrize("seed", [2**64 - 1, -(2**63)])
def test_the_outermost_seeds_draw(load: Load, seed: int) -> None:
    engine = load(FakeModel(), a_config())

    (drawn,) = complete(engine, [a_request("q", temperature=0.5, seed=seed, new=3)])

    assert drawn.token_ids


def test_a_defect_while_an_answer_grows_fails_it_alone(load: Load) -> None:
    model = FakeModel(stops=False)
    engine = load(model, a_config())
    model.tokenizer = Unreadable()

    (failed,) = ask(engine, [a_request("q", stop=("end",))])
    model.tokenizer = ByteTokenizer()
    (answered,) = complete(engine, [a_request("q")])

    assert isinstance(failed, InferError)
    assert "tokens" in str(failed)
    assert list(answered.token_ids) == reference(a_request("q"), stops=False)
    assert_all_are_counted(engine)


def test_closed_engines_count_nobody_twice(load: Load) -> None:
    model = FakeModel(stops=False)
    begun = model.has_begun(5)
    engine = load(model, a_config(requests=2))

    async def close_meanwhile() -> list[Reply]:
        requests: list[Request] = [a_request("q" * n, new=300) for n in range(1, 7)]
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await asyncio.to_thread(begun.wait, 60)
        tasks[5].cancel()
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(close_meanwhile())
    late = ask(engine, [a_request("late")])

    assert all(isinstance(one, EngineDied | InferError) for one in [*replies[:5], *late])
    assert_all_are_counted(engine)
