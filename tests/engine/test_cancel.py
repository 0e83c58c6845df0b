"""A request that is cancelled by its id ends with what it has, and hurts nobody."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.models.model import Model
from tests.engine.builders import (
    FakeModel,
    a_config,
    a_request,
    an_image,
    complete,
    num_open,
    reference,
    until,
)
from tests.engine.test_frontend import Gated

pytestmark = pytest.mark.slow

Load = Callable[[Model, EngineConfig], Engine]
Reply = Completion | BaseException


class Halting(FakeModel):
    """Its decoder waits in one of its passes until it may go on; then it may fail."""

    def __init__(self, at: int, *, fails: bool = False) -> None:
        super().__init__(stops=False)
        self.halted, self.may_go_on = threading.Event(), threading.Event()
        self._at = at
        self._fails = fails
        self.decoder.register_forward_pre_hook(lambda *_: self._wait())

    def _wait(self) -> None:
        if self.num_forwards != self._at:
            return
        self.halted.set()
        assert self.may_go_on.wait(60)
        if self._fails:
            raise RuntimeError("the device failed")


def cancel_halfway(
    engine: Engine, model: Halting, requests: Sequence[Request], *names: str
) -> list[Reply]:
    """Submit all, cancel some when the decoder halts, and let it go on."""

    async def run() -> list[Reply]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await asyncio.to_thread(model.halted.wait, 60)
        await until(lambda: num_open(engine) == len(requests))
        assert all([await asyncio.to_thread(engine.cancel, name) for name in names])
        model.may_go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def assert_nothing_is_held(engine: Engine) -> None:
    asyncio.run(until(lambda: num_open(engine) == 0))
    stats = engine.stats()
    assert stats.num_requests == stats.num_completed + stats.num_failed
    assert {stats.extra.get(name, 0) for name in ("kv_pages", "feature_rows")} == {0}


def assert_is_whole(reply: Reply, request: Request) -> None:
    assert isinstance(reply, Completion)
    assert reply.finish_reason == "length"
    assert list(reply.token_ids) == reference(request, stops=False)


def assert_is_a_beginning(reply: Reply, request: Request) -> None:
    assert isinstance(reply, Completion)
    assert reply.finish_reason == "cancelled"
    count = len(reply.token_ids)
    assert 0 < count < request.max_new_tokens
    assert list(reply.token_ids) == reference(request, stops=False)[:count]


def assert_is_empty(reply: Reply, *, prompt_tokens: int) -> None:
    assert reply == Completion(
        text="",
        token_ids=(),
        prompt_tokens=prompt_tokens,
        finish_reason="cancelled",
        mean_logprob=None,
        regime="short",
    )


def test_an_answer_that_is_cancelled_halfway_is_the_beginning_of_the_whole(load: Load) -> None:
    model = Halting(at=8)
    engine = load(model, a_config())
    requests = [
        a_request(an_image("a"), "long", new=60, name="long"),
        a_request(an_image("b"), "q", new=30, name="other"),
        a_request("text", new=30, name="text"),
    ]

    cancelled, *others = cancel_halfway(engine, model, requests, "long")

    assert_is_a_beginning(cancelled, requests[0])
    for reply, request in zip(others, requests[1:], strict=True):
        assert_is_whole(reply, request)
    assert isinstance(cancelled, Completion)
    count = len(cancelled.token_ids)
    assert count < 10
    (short,) = complete(engine, [a_request(an_image("a"), "long", new=count)])
    assert (cancelled.text, cancelled.prompt_tokens) == (short.text, short.prompt_tokens)
    assert cancelled.mean_logprob == pytest.approx(short.mean_logprob, abs=1e-5)
    assert_nothing_is_held(engine)


def test_who_waits_is_cancelled_at_once_and_has_nothing(load: Load) -> None:
    model = Halting(at=3)
    engine = load(model, a_config(requests=1))
    first, second = a_request("first", new=10), a_request(an_image("a"), "q", name="second")

    async def run() -> list[Reply]:
        task = asyncio.create_task(engine.submit(first))
        await asyncio.to_thread(model.halted.wait, 60)
        waiting = asyncio.create_task(engine.submit(second))
        await until(lambda: num_open(engine) == 2)
        assert engine.cancel("second")
        empty = await asyncio.wait_for(waiting, 30)
        model.may_go_on.set()
        return [await task, empty]

    whole, empty = asyncio.run(run())

    assert_is_whole(whole, first)
    assert_is_empty(empty, prompt_tokens=12 + 3)
    assert_nothing_is_held(engine)


def test_who_is_encoded_is_cancelled_at_once_and_its_medium_serves_others(load: Load) -> None:
    model = Gated()
    engine = load(model, a_config())
    requests = [a_request(an_image("a"), "q" * n, new=8, name=f"{n}") for n in (1, 2)]

    async def run() -> list[Reply]:
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await asyncio.to_thread(model.begun.wait, 60)
        await until(lambda: num_open(engine) == 2)
        assert engine.cancel("1")
        empty = await asyncio.wait_for(tasks[0], 30)
        model.may_go_on.set()
        return [empty, await tasks[1]]

    empty, whole = asyncio.run(run())

    assert_is_empty(empty, prompt_tokens=12 + 3)
    assert_is_whole(whole, requests[1])
    assert_nothing_is_held(engine)


def test_the_medium_of_nobody_but_the_cancelled_is_given_back(load: Load) -> None:
    model = Gated()
    engine = load(model, a_config())

    async def run() -> Completion:
        task = asyncio.create_task(engine.submit(a_request(an_image("a"), name="a")))
        await asyncio.to_thread(model.begun.wait, 60)
        assert engine.cancel("a")
        completion = await asyncio.wait_for(task, 30)
        model.may_go_on.set()
        return completion

    assert_is_empty(asyncio.run(run()), prompt_tokens=12 + 2)
    after = a_request("after", new=4)
    assert_is_whole(complete(engine, [after])[0], after)
    assert_nothing_is_held(engine)


def test_unknown_ids_and_those_that_are_answered_do_nothing(load: Load) -> None:
    model = FakeModel(stops=False)
    engine = load(model, a_config())
    request = a_request("q", new=8, name="r")

    before = engine.cancel("r")
    first = complete(engine, [request])
    after = engine.cancel("r"), engine.cancel("unknown"), engine.cancel("")
    second = complete(engine, [request])

    assert not any((before, *after))
    for reply in (*first, *second):
        assert_is_whole(reply, request)
    engine.close()
    assert not engine.cancel("r")


def test_all_requests_of_an_id_are_cancelled_wherever_they_are(load: Load) -> None:
    model = Halting(at=6)
    engine = load(model, a_config(requests=3))
    requests = [a_request("q" * n, new=40, name="same") for n in range(1, 6)]
    requests.insert(1, a_request("other", new=20, name="other"))

    replies = cancel_halfway(engine, model, requests, "same")

    assert_is_whole(replies.pop(1), requests.pop(1))
    for reply, request in zip(replies[:2], requests[:2], strict=True):
        assert_is_a_beginning(reply, request)
    for reply, request in zip(replies[2:], requests[2:], strict=True):
        assert_is_empty(reply, prompt_tokens=2 + len(str(request.turns[0].content[0])))
    assert_nothing_is_held(engine)


def test_a_cancelled_leader_and_a_cancelled_follower_starve_nobody_of_their_group(
    load: Load,
) -> None:
    model = Halting(at=2)  # of the six passes that the leader's prompt takes
    engine = load(model, a_config(batch_tokens=16))
    image = an_image("image", rows=90)
    requests = [a_request(image, text, new=8, name=text) for text in "abcd"]

    leader, follower, *others = cancel_halfway(engine, model, requests, "a", "b")

    assert_is_a_beginning(leader, requests[0])
    assert isinstance(follower, Completion)
    assert follower.finish_reason == "cancelled"
    for reply, request in zip(others, requests[2:], strict=True):
        assert_is_whole(reply, request)
    assert_nothing_is_held(engine)


def test_a_cancelled_answer_is_not_run_again_after_a_fault(load: Load) -> None:
    model = Halting(at=6, fails=True)
    engine = load(model, a_config())
    requests = [a_request("q" * n, new=40, name=f"{n}") for n in (1, 2)]

    cancelled, whole = cancel_halfway(engine, model, requests, "1")

    assert_is_a_beginning(cancelled, requests[0])
    assert_is_whole(whole, requests[1])
    assert_nothing_is_held(engine)


def test_a_caller_may_leave_though_his_request_is_cancelled(load: Load) -> None:
    model = Halting(at=6)
    engine = load(model, a_config())

    async def run() -> Reply:
        task = asyncio.create_task(engine.submit(a_request("q", new=40, name="r")))
        await asyncio.to_thread(model.halted.wait, 60)
        assert engine.cancel("r")
        task.cancel()
        (reply,) = await asyncio.gather(task, return_exceptions=True)
        model.may_go_on.set()
        return reply

    assert isinstance(asyncio.run(run()), asyncio.CancelledError)
    assert_nothing_is_held(engine)


def test_who_is_told_that_a_request_is_cancelled_finds_it_so(load: Load) -> None:
    engine = load(FakeModel(stops=False), a_config())

    async def run(number: int) -> tuple[bool, Completion]:
        request = a_request("q" * (1 + number), new=3, name=f"{number}")
        task = asyncio.create_task(engine.submit(request))
        await asyncio.sleep(0.0005 * number)  # a later moment of the answer each time
        told = engine.cancel(f"{number}")
        return told, await task

    async def run_all() -> list[tuple[bool, Completion]]:
        return [await run(number) for number in range(40)]

    outcomes = asyncio.run(run_all())

    for told, completion in outcomes:
        assert (completion.finish_reason == "cancelled") == told
    assert_nothing_is_held(engine)
