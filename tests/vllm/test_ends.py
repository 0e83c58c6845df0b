"""How vLLM ends, on purpose and by accident: everybody is answered, no process is left."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

import psutil
import pytest

from phicorpus.engine.engine import Completion
from phicorpus.engine.vllm.engine import VllmEngine
from phicorpus.errors import EngineDied
from tests.engine.builders import (
    FakeModel,
    a_request,
    ask,
    complete,
    engine_threads,
    num_open,
    until,
)
from tests.vllm.builders import HIDDEN, engine_config, needs_vllm

pytestmark = needs_vllm
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    """One that never stops by itself, with a short deadline; the last test kills it."""
    config = engine_config(max_requests=2).model_copy(update={"deadline_s": DEADLINE_S})
    model = FakeModel(hidden=HIDDEN, stops=False)
    model.max_length = 8000
    model.decoder.config.max_position_embeddings = 8192
    with closing(VllmEngine(model, config)) as started:
        yield started


def processes() -> list[psutil.Process]:
    """VLLM's, which are children of this one."""
    return [p for p in psutil.Process().children(recursive=True) if "VLLM" in p.name()]


def all_end(started: Sequence[psutil.Process], *, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while not all(map(is_gone, started)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_deadline_ends_an_answer_with_what_is_there(engine: VllmEngine) -> None:
    (completion,) = complete(engine, [a_request("q", new=7000, temperature=1.0)])

    assert completion.finish_reason == "deadline"
    assert 0 < len(completion.token_ids) < 7000


def test_a_dead_core_answers_who_waits_and_who_comes_later(engine: VllmEngine) -> None:
    async def kill_meanwhile() -> list[Completion | BaseException]:
        long = [a_request("q", new=7000, temperature=1.0, seed=n) for n in range(4)]
        tasks = [asyncio.create_task(engine.submit(request)) for request in long]
        await until(lambda: engine.stats().num_running == 3 and num_open(engine) == len(tasks))
        for process in processes():
            process.kill()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(kill_meanwhile())
    (late,) = ask(engine, [a_request("late")])

    assert [type(reply) for reply in [*replies, late]] == [EngineDied] * 5
    assert not engine.capabilities.recovers
    assert engine.stats().num_running == 0
    engine.close()
    engine.close()
    assert engine_threads() == []


def test_a_closed_engine_refuses_answers_who_waits_and_leaves_nothing() -> None:
    engine = VllmEngine(FakeModel(hidden=HIDDEN, stops=False), engine_config(max_requests=1))
    started = processes()

    async def close_meanwhile() -> list[Completion | BaseException]:
        tasks = [asyncio.create_task(engine.submit(a_request("q", new=400))) for _ in range(3)]
        await until(lambda: num_open(engine) == len(tasks))
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(close_meanwhile())
    engine.close()

    assert [type(reply) for reply in replies] == [EngineDied] * 3
    assert isinstance(ask(engine, [a_request("late")])[0], EngineDied)
    assert started
    assert all_end(started, within_s=5)
    assert engine_threads() == []


def test_a_vllm_that_does_not_start_says_so_and_leaves_nothing() -> None:
    more_than_there_is = engine_config(kv_cache_tokens=2**40)

    with pytest.raises(EngineDied, match="vLLM does not start"):
        VllmEngine(FakeModel(hidden=HIDDEN), more_than_there_is)

    assert all_end(processes(), within_s=5)
    assert engine_threads() == []


def test_vllm_ends_with_a_killed_actor() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.vllm.actor"], stdout=subprocess.PIPE, text=True
    ) as actor:
        assert actor.stdout is not None
        assert any(line.startswith("ready") for line in actor.stdout)
        children = psutil.Process(actor.pid).children(recursive=True)
        started = [process for process in children if "VLLM" in process.name()]

        os.kill(actor.pid, signal.SIGKILL)

        assert started
        assert all_end(started, within_s=20)
