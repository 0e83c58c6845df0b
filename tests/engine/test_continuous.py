"""What only the continuous engine promises: sharing, back-pressure, recovery, its threads."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion
from phicorpus.engine.recovery import MAX_FAILURES_IN_ROW
from phicorpus.engine.registry import load_engine
from phicorpus.engine.sequence import Sequence
from phicorpus.errors import EngineDied, InferError, RequestRefused
from tests.engine.builders import (
    FakeModel,
    a_clip,
    a_config,
    a_request,
    an_image,
    ask,
    complete,
    engine_threads,
    logged,
    reference,
)
from tests.engine.test_contract import SlowEyes
from tests.engine.test_frontend import Gated, Unreadable

pytestmark = pytest.mark.slow

Start = Callable[[FakeModel, EngineConfig], ContinuousEngine]


def token_ids(completions: list[Completion]) -> list[list[int]]:
    return [list(completion.token_ids) for completion in completions]


def test_three_tasks_on_an_image_encode_and_prefill_it_once(start: Start) -> None:
    model = FakeModel()
    engine = start(model, a_config(page=8, batch_tokens=256, cache=8192))
    images = [an_image(f"image {index}", rows=79) for index in range(8)]
    requests = [
        a_request(image, task, new=6) for task in ("ocr", "chart", "alt") for image in images
    ]

    completions = complete(engine, requests)

    stats = engine.stats()
    assert token_ids(completions) == list(map(reference, requests))
    assert (stats.media_encoded, stats.media_reused) == (8, 16)
    assert sorted(key for call in model.encoded for key in call) == sorted(i.key for i in images)
    # the user id and 79 rows are 10 pages; then a task's name and the answer id
    assert stats.prompt_tokens == 8 * (80 + 4 + 80 + 6 + 80 + 4)
    assert stats.prefill_tokens == 8 * (80 + 4 + 6 + 4)


def test_an_image_that_comes_back_is_not_encoded_again_and_its_prefix_is_still_there(
    start: Start,
) -> None:
    model = FakeModel()
    engine = start(model, a_config(page=8))
    image = an_image("image", rows=39)

    complete(engine, [a_request(image, "one")])
    complete(engine, [a_request(image, "two")])

    assert model.encoded == [["image"]]
    assert engine.stats().prefill_tokens == 40 + 4 + 4


def test_media_of_equal_key_and_other_content_prefix_do_not_share(start: Start) -> None:
    engine = start(FakeModel(), a_config())
    image = an_image("image")
    requests = [a_request("first", image, "q"), a_request(image, "q"), a_request(image, image, "q")]

    assert token_ids(complete(engine, requests)) == list(map(reference, requests))


def test_a_small_feature_table_holds_requests_back_without_a_deadlock(start: Start) -> None:
    model = FakeModel()
    engine = start(model, a_config(rows=256))
    requests = [
        a_request(
            an_image(f"image {index % 17}", rows=60 + index % 5),
            a_clip(f"clip {index}", rows=50),
            an_image(f"image {index % 7}", rows=100 + index % 3),
            "q",
            new=3 + index % 9,
        )
        for index in range(30)
    ]

    completions = complete(engine, requests)

    assert token_ids(completions) == list(map(reference, requests))
    assert engine.stats().extra["feature_rows"] == 0
    assert isinstance(
        ask(engine, [a_request(an_image("huge", rows=257), "q", new=1)])[0], RequestRefused
    )


def test_a_tiny_cache_evicts_old_prefixes_and_stays_right(start: Start) -> None:
    engine = start(FakeModel(), a_config(cache=256, page=8, requests=8))
    requests = [
        a_request(
            an_image(f"image {index % 6}", rows=30 + index % 6), "q" * (index % 9 + 1), new=20
        )
        for index in range(36)
    ]

    completions = complete(engine, requests)

    assert token_ids(completions) == list(map(reference, requests))


def test_an_image_whose_pages_are_evicted_while_another_is_encoded_is_read_all_the_same(
    start: Start,
) -> None:
    engine = start(FakeModel(), a_config(cache=256, page=8, batch_tokens=256))
    one, other = an_image("one", rows=31), an_image("other", rows=16)
    complete(engine, [a_request(one, "q", new=4)])
    requests = [a_request(one, other, "q", new=4), a_request("t" * 225, new=8)]

    completions = complete(engine, requests)  # the text takes pages of the image's

    assert token_ids(completions) == list(map(reference, requests))


def test_a_group_survives_its_cancelled_leader(start: Start) -> None:
    model = FakeModel(stops=False)
    begun = model.has_begun(2)  # of the six passes that the leader's prompt takes
    engine = start(model, a_config(batch_tokens=16))
    image = an_image("image", rows=90)

    async def cancel_leader() -> list[Completion | BaseException]:
        tasks = [
            asyncio.create_task(engine.submit(a_request(image, text, new=8))) for text in "abcd"
        ]
        await asyncio.to_thread(begun.wait, 60)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(cancel_leader())

    expected = [reference(a_request(image, text, new=8), stops=False) for text in "bcd"]
    assert isinstance(replies[0], asyncio.CancelledError)
    assert token_ids([r for r in replies if isinstance(r, Completion)]) == expected


def test_loops_are_cut(start: Start) -> None:
    model = FakeModel(stops=False)
    for layer in cast(
        "Any", model.decoder.model.layers
    ):  # without layers a token decides the next one
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    engine = start(model, a_config())

    (completion,) = complete(engine, [a_request("q", new=400)])

    assert completion.finish_reason == "loop"
    assert 128 <= len(completion.token_ids) < 400


def test_a_request_that_kills_the_loop_fails_alone(start: Start) -> None:
    model = FakeModel()
    model.poison_id = ord("!")
    engine = start(model, a_config())
    requests = [a_request("q" * (index + 1), an_image(f"{index % 3}")) for index in range(12)]

    replies = ask(engine, [*requests[:6], a_request("poison!"), *requests[6:]])

    assert isinstance(replies[6], InferError)
    assert "twice" in str(replies[6])
    others = [reply for reply in replies if isinstance(reply, Completion)]
    assert token_ids(others) == list(map(reference, requests))
    assert engine.stats().extra["restarts"] == 2


def test_a_tokenizer_that_fails_on_an_answer_runs_no_other_again(start: Start) -> None:
    model = FakeModel()
    model.tokenizer = Unreadable()
    engine = start(model, a_config())

    replies = ask(engine, [a_request("q", stop=("end",)), a_request("q" * 9)])

    assert [type(reply) for reply in replies] == [InferError, InferError]
    assert "LookupError" in str(replies[0])
    assert engine.stats().extra["restarts"] == 0


def test_a_decoder_that_keeps_failing_is_given_up(start: Start) -> None:
    model = FakeModel(fail_forward=range(1, 1000))
    engine = start(model, a_config())

    replies = ask(engine, [a_request("q" * (index + 1)) for index in range(12)])

    assert all(isinstance(reply, InferError | EngineDied) for reply in replies)
    assert model.num_forwards == MAX_FAILURES_IN_ROW + 1 + 1  # with one of its own
    with pytest.raises(EngineDied, match="again and again"):
        asyncio.run(engine.submit(a_request("late")))


def test_an_engine_that_is_closed_as_it_schedules_has_no_failed_step(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(FakeModel(), a_config(requests=1))
    schedule = engine._scheduler.schedule

    def closes() -> list[Sequence]:
        batch = schedule()
        engine._stop("it is closed")
        return batch

    monkeypatch.setattr(engine._scheduler, "schedule", closes)
    with logged() as records:
        replies = ask(engine, [a_request("one"), a_request("another")])

    assert [type(reply) for reply in replies] == [EngineDied, EngineDied]
    assert engine.stats().extra["restarts"] == 0
    assert not records


def test_many_bad_requests_in_a_row_are_their_own_errors_where_the_decoder_is_well(
    start: Start,
) -> None:
    model = FakeModel()
    model.poison_id = ord("!")
    engine = start(model, a_config())
    good = a_request("good", new=10)

    replies = ask(engine, [*(a_request("!" * (1 + index)) for index in range(9)), good])

    assert [type(reply) for reply in replies[:9]] == [InferError] * 9
    assert token_ids([one for one in replies if isinstance(one, Completion)]) == [reference(good)]


def test_what_overflowed_is_computed_anew_when_it_is_asked_again(start: Start) -> None:
    model = FakeModel()
    engine = start(model, a_config(page=8))
    request = a_request(an_image("loud", rows=30), "q")
    handle = model.decoder.lm_head.register_forward_hook(
        lambda *_: torch.tensor(torch.nan).expand(1, 1, 300).clone()
    )

    (failed,) = ask(engine, [request])
    handle.remove()
    (answered,) = complete(engine, [request])

    assert isinstance(failed, InferError)
    assert list(answered.token_ids) == reference(request)
    assert engine.stats().prefill_tokens == 2 * (30 + 3)


def test_callers_of_several_event_loops_are_answered(start: Start) -> None:
    engine = start(FakeModel(), a_config())
    requests = [a_request("q" * (index + 1), new=8) for index in range(12)]
    answers: dict[int, list[list[int]]] = {}

    def caller(number: int) -> None:
        answers[number] = token_ids(complete(engine, requests[number::3]))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number in range(3):
        assert answers[number] == list(map(reference, requests[number::3]))


def test_a_decoder_that_hangs_is_given_up() -> None:
    model = FakeModel()
    released = threading.Event()
    model.decoder.model.register_forward_pre_hook(lambda *_: (released.wait(30), None)[1])
    engine = ContinuousEngine(model, a_config(deadline_s=0.2), min_hang_s=0.1)

    (reply,) = ask(engine, [a_request("q")])
    released.set()
    engine.close()

    assert isinstance(reply, EngineDied)
    assert "hangs" in str(reply)


def test_an_encoder_that_hangs_is_given_up() -> None:
    model = Gated()
    engine = ContinuousEngine(model, a_config(deadline_s=1), min_hang_s=0.1)

    complete(engine, [a_request("nothing to see", new=2)])
    replies = ask(engine, [a_request(an_image("a"), "q"), a_request(an_image("b"), "q")])
    model.may_go_on.set()
    engine.close()

    assert [type(reply) for reply in replies] == [EngineDied] * 2
    assert "the encoder hangs: no batch of media in 1 s" in str(replies[0])


def test_an_encoder_that_hangs_is_given_up_though_the_decoder_goes_on() -> None:
    model = Gated()
    engine = ContinuousEngine(model, a_config(deadline_s=1), min_hang_s=0.1)

    async def run() -> Completion | BaseException:
        seeing = asyncio.create_task(engine.submit(a_request(an_image("a"), "q")))
        while not seeing.done():
            await asyncio.gather(engine.submit(a_request("q")), return_exceptions=True)
        return (await asyncio.gather(seeing, return_exceptions=True))[0]

    reply = asyncio.run(run())
    model.may_go_on.set()
    engine.close()

    assert isinstance(reply, EngineDied)
    assert "the encoder hangs" in str(reply)


def test_many_media_that_take_longer_together_than_one_may_are_no_hang() -> None:
    config = a_config(deadline_s=1).model_copy(update={"encode_batch": 1})
    engine = ContinuousEngine(SlowEyes(), config, min_hang_s=0.1)

    completions = complete(engine, [a_request(an_image(f"{n}"), new=1) for n in range(7)])
    engine.close()

    assert len(completions) == 7


def test_a_pass_that_takes_longer_than_an_answer_may_is_no_hang(start: Start) -> None:
    model = FakeModel()
    model.decoder.register_forward_pre_hook(lambda *_: time.sleep(0.6))
    engine = start(model, a_config(deadline_s=0.1, batch_tokens=16))

    (reply,) = complete(engine, [a_request("q" * 20, new=8)])

    assert reply.finish_reason == "deadline"


def test_the_model_is_given_back_and_can_be_used_again() -> None:
    model = FakeModel()
    words = model.decoder.get_input_embeddings()
    request = a_request("q", an_image("image"))
    for _ in range(2):
        engine = load_engine(model, a_config())
        assert isinstance(engine, ContinuousEngine)
        assert token_ids(complete(engine, [request])) == [reference(request)]
        engine.close()
        engine.close()

    assert model.decoder.get_input_embeddings() is words
    assert model.decoder.config._attn_implementation == "sdpa"
    assert "is_causal" not in vars(model.decoder.config)
    assert engine_threads() == []


def test_a_process_that_forgets_to_close_ends() -> None:
    program = (
        "import asyncio\n"
        "from phicorpus.engine.continuous import ContinuousEngine\n"
        "from tests.engine.builders import FakeModel, a_config, a_request\n"
        "engine = ContinuousEngine(FakeModel(), a_config())\n"
        "print(len(asyncio.run(engine.submit(a_request('q'))).token_ids))\n"
    )

    started = time.monotonic()
    done = subprocess.run(  # noqa: S603 own program
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
    assert time.monotonic() - started < 60
