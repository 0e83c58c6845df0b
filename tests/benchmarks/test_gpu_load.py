"""The steady load of `benchmarks.gpu`: what it counts, and that it ends when its time is over."""

import asyncio
import itertools
import time
from collections.abc import Iterator

from benchmarks.gpu import load
from benchmarks.gpu.work import WORKS, num_media_rows, requests
from phicorpus.engine.engine import Completion, EngineStats, FinishReason, Request
from phicorpus.models.phi4_multimodal.image import ImagePreparation

WORK = WORKS["captions"]


class FakeEngine:
    """Answers at once, or those of every other asset never, until they are cancelled."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs = hangs
        self.waiting: dict[str, asyncio.Event] = {}
        self.most_waiting = 0
        self.num_answered = 0

    async def submit(self, request: Request) -> Completion:
        reason: FinishReason = "length"
        if self.hangs and int(request.request_id.partition(".")[0]) % 2:
            self.waiting[request.request_id] = cancelled = asyncio.Event()
            self.most_waiting = max(self.most_waiting, len(self.waiting))
            await cancelled.wait()
            reason = "cancelled"
        await asyncio.sleep(0)
        self.num_answered += 1
        return Completion(
            text="", token_ids=(1, 2), prompt_tokens=3, finish_reason=reason, mean_logprob=None,
            regime="short",
        )  # fmt: skip

    def cancel(self, request_id: str) -> bool:
        found = self.waiting.pop(request_id, None)
        if found is not None:
            found.set()
        return found is not None

    def stats(self) -> EngineStats:
        now = time.monotonic()
        return EngineStats(num_running=4, busy_s=now / 2, loaded_s=now, extra={"steps": now})


def drawn() -> Iterator[Request]:
    return requests(WORK, ImagePreparation(), divisor=32)


def test_only_what_is_answered_in_the_counted_time_counts() -> None:
    engine = FakeEngine()

    found = load.run(engine, drawn(), outstanding=4, seconds=0.6)  # type: ignore[arg-type]

    figures = found.figures(WORK)
    assert 0 < figures["answers"] < engine.num_answered
    assert figures["answers_per_s"] == figures["answers"] / found.seconds
    assert figures["mean_answer_tokens"] == 2
    assert figures["mean_running"] == 4
    assert round(figures["busy_share"], 6) == 0.5
    assert round(figures["counters"]["steps"], 1) == round(found.seconds, 1)


def test_what_is_open_at_the_end_is_cancelled_and_not_counted() -> None:
    engine = FakeEngine(hangs=True)

    found = load.run(engine, drawn(), outstanding=3, seconds=0.3)  # type: ignore[arg-type]

    assert engine.most_waiting == 3
    assert engine.waiting == {}
    assert {completion.finish_reason for completion in found.completions} <= {"length"}


def test_work_has_the_sizes_of_real_assets_and_is_the_same_each_time() -> None:
    preparation = ImagePreparation()

    sample = {
        name: list(itertools.islice(requests(work, preparation), 300))
        for name, work in WORKS.items()
    }

    rows = {name: num_media_rows(drawn[0], preparation) for name, drawn in sample.items()}
    assert rows == {"speech": 375, "ocr": 3281, "captions": 1065, "3 captions": 1065}
    for name, work in WORKS.items():
        again = itertools.islice(requests(work, preparation), 300)
        lengths = [request.max_new_tokens for request in sample[name]]
        assert lengths == [request.max_new_tokens for request in again]
        assert max(lengths) <= work.longest
        assert len({request.request_id for request in sample[name]}) == 300
        keys = {request.turns[0].content[0].key for request in sample[name]}  # type: ignore[union-attr]
        assert len(keys) == 300 // work.tasks
