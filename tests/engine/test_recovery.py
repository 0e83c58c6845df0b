"""What the continuous engine does when its decoding loop dies: of memory, or of a request."""

import asyncio
import weakref
from collections.abc import Callable

import pytest
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion, Request
from phicorpus.engine.recovery import LEAST_BATCH_TOKENS, Recovery, is_out_of_memory
from phicorpus.errors import InferError
from tests.engine.builders import (
    FakeModel,
    a_config,
    a_request,
    an_image,
    ask,
    complete,
    logged,
    reference,
)

pytestmark = pytest.mark.slow

Start = Callable[[FakeModel, EngineConfig], ContinuousEngine]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: Error code 12"),
    MemoryError(),
]


def limit_memory(model: FakeModel, tokens: int, error: BaseException) -> list[int]:
    """Let each pass of more tokens raise; gives the sizes of all passes."""
    sizes: list[int] = []

    def before(_module: object, args: tuple[torch.Tensor]) -> None:
        sizes.append(args[0].numel())
        if sizes[-1] > tokens:
            raise error

    model.decoder.get_input_embeddings().register_forward_pre_hook(before)
    return sizes


def some_requests(count: int) -> list[Request]:
    return [
        a_request(an_image(f"{index % 5}", rows=40 + index % 7), "q" * (1 + index % 9), new=12)
        for index in range(count)
    ]


def tokens_of(replies: list[Completion | BaseException]) -> list[list[int]]:
    return [list(reply.token_ids) for reply in replies if isinstance(reply, Completion)]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["device", "allocator", "python"])
def test_out_of_memory_halves_the_passes_and_answers_all_as_before(
    start: Start, error: BaseException
) -> None:
    model = FakeModel()
    sizes = limit_memory(model, 130, error)
    engine = start(model, a_config(batch_tokens=512))
    requests = [a_request("q" * 300, new=12), *some_requests(14)]  # one fills a pass by itself

    with logged() as records:
        replies = ask(engine, requests)

    assert tokens_of(replies) == list(map(reference, requests))
    assert engine.stats().extra["restarts"] == 2  # 512, 256, 128
    assert max(sizes[-10:]) <= 128
    lines = [vars(line) for line in records if line.msg == "a step failed"]
    assert [line["batch_tokens"] for line in lines] == [256, 128]


def test_a_request_that_does_not_fit_alone_is_its_own_error_and_the_passes_grow_again(
    start: Start,
) -> None:
    model = FakeModel()
    sizes: list[int] = []

    def before(_module: object, args: tuple[torch.Tensor]) -> None:
        sizes.append(args[0].numel())
        if ord("!") in args[0].tolist():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.decoder.get_input_embeddings().register_forward_pre_hook(before)
    engine = start(model, a_config(batch_tokens=256))
    requests = some_requests(6)

    replies = ask(engine, [*requests[:3], a_request("huge!"), *requests[3:]])
    failed = replies.pop(3)
    sizes.clear()
    later = complete(engine, [a_request("q" * 200, new=2)])

    assert isinstance(failed, InferError)
    assert "OutOfMemoryError" in str(failed)
    assert tokens_of(replies) == list(map(reference, requests))
    assert later[0].prompt_tokens == sizes[0] > LEAST_BATCH_TOKENS


def test_who_runs_alone_as_memory_is_used_up_runs_alone_again(start: Start) -> None:
    model = FakeModel()
    model.poison_id = ord("!")
    begun: list[int] = []

    def before(_module: object, args: tuple[torch.Tensor]) -> None:
        begun.append(args[0].numel())
        if len(begun) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.decoder.get_input_embeddings().register_forward_pre_hook(before)
    engine = start(model, a_config(requests=2, batch_tokens=256))
    good = a_request("good")

    replies = ask(engine, [good, a_request("bad!"), a_request("bad too!")])

    assert tokens_of(replies) == [reference(good)]
    assert [isinstance(reply, InferError) for reply in replies] == [False, True, True]


def test_a_cancelled_request_is_not_run_again_after_a_fault(start: Start) -> None:
    model = FakeModel(fail_forward=[8], stops=False)
    begun = model.has_begun(2)
    engine = start(model, a_config())

    async def leave() -> object:
        task = asyncio.ensure_future(engine.submit(a_request("q", new=200)))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    assert isinstance(asyncio.run(leave()), asyncio.CancelledError)
    complete(engine, [a_request("after", new=2)])
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)


@pytest.mark.parametrize("fails", [False, True], ids=["stopped", "failed"])
def test_an_engine_that_is_over_holds_no_memory(start: Start, fails: bool) -> None:
    model = FakeModel(fail_forward=range(1, 100) if fails else [])
    engine = start(model, a_config())
    memory = weakref.ref(engine._runner._cache[0][0])

    ask(engine, [a_request("q", new=4)] * (10 if fails else 1))
    engine.close()

    assert memory() is None


def test_pages_that_a_failed_step_did_not_write_are_nobodys_prefix(start: Start) -> None:
    engine = start(FakeModel(fail_forward=[2]), a_config(batch_tokens=64))
    request = a_request(an_image("a", rows=100), "q")  # two passes for the prompt

    (completion,) = complete(engine, [request])

    assert list(completion.token_ids) == reference(request)
    assert engine.stats().prefill_tokens == 64 + 103 - 64  # the first part was kept


def test_the_passes_are_halved_down_to_a_least_and_then_requests_run_alone() -> None:
    recovery = Recovery(a_config(batch_tokens=256))
    error = OUT_OF_MEMORY[0]

    verdicts = [recovery.after(error) for _ in range(3)]

    assert verdicts == ["smaller", "smaller", "alone"]
    assert recovery.batch_tokens == LEAST_BATCH_TOKENS
    recovery.on_failed_alone()
    assert recovery.after(RuntimeError("the device failed")) == "alone"
    assert recovery.batch_tokens == 256
    assert [recovery.after(None) for _ in range(3)] == ["alone", "alone", "give up"]
    recovery.on_completion()
    assert recovery.after(None) == "alone"


def test_other_errors_are_no_lack_of_memory() -> None:
    assert all(map(is_out_of_memory, OUT_OF_MEMORY))
    others = [None, RuntimeError("the device failed"), ValueError("out of memory"), KeyError()]
    assert not any(map(is_out_of_memory, others))
