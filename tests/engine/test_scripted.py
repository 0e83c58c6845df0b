import asyncio
import pickle
import subprocess
import sys

import numpy as np
import pytest

from phicorpus.engine.engine import Completion, Request
from phicorpus.engine.scripted import Script, ScriptedEngine, load_scripted
from phicorpus.errors import EngineDied, InferError, RequestRefused
from phicorpus.models.model import Clip, Turn


def a_question(text: str = "what is this?", *, key: str | None = None, tokens: int = 16) -> Request:
    media = () if key is None else (Clip(samples=np.zeros(1, np.float32), key=key),)
    return Request(request_id=text, turns=(Turn("user", (*media, text)),), max_new_tokens=tokens)


def ask(engine: ScriptedEngine, *requests: Request) -> list[Completion | BaseException]:
    async def gather() -> list[Completion | BaseException]:
        return await asyncio.gather(*map(engine.submit, requests), return_exceptions=True)

    return asyncio.run(gather())


def shout(request: Request) -> str:
    return request.request_id.upper()


def test_the_same_request_gets_the_same_answer_and_another_gets_another() -> None:
    first = ask(load_scripted(Script()), a_question(key="a"), a_question(key="b"))
    second = ask(load_scripted(Script()), a_question(key="a"), a_question(key="b"))

    assert first == second
    assert first[0] != first[1]


def test_a_script_pickles_with_its_functions() -> None:
    script = pickle.loads(pickle.dumps(Script(answer=shout, delay_s=0.001)))  # noqa: S301 own bytes

    (completion,) = ask(load_scripted(script), a_question("hello"))

    assert isinstance(completion, Completion)
    assert completion.text == "HELLO"


def test_rules_choose_by_text_and_by_media_key_and_hurt_only_their_request() -> None:
    script = Script(
        answer={"caption": "a cat", "": "else"}, refuse_when=("rude",), fail_when=("bad-key",)
    )

    replies = ask(
        load_scripted(script),
        a_question("caption it"),
        a_question("rude question"),
        a_question("caption it", key="bad-key-1"),
        a_question("read it", key="good"),
    )

    assert isinstance(replies[0], Completion)
    assert replies[0].text == "a cat"
    assert isinstance(replies[1], RequestRefused)
    assert isinstance(replies[2], InferError)
    assert isinstance(replies[3], Completion)
    assert replies[3].text == "else"


def test_an_answer_is_cut_at_max_new_tokens_and_at_a_stop_text() -> None:
    request = a_question(tokens=2)
    stopped = Request(request_id="s", turns=request.turns, max_new_tokens=9, stop=(" three",))
    engine = load_scripted(Script(answer="one two three four"))

    long, short = ask(engine, request, stopped)

    assert isinstance(long, Completion)
    assert isinstance(short, Completion)
    assert (long.text, long.finish_reason, len(long.token_ids)) == ("one two", "length", 2)
    assert (short.text, short.finish_reason) == ("one two", "stop")


def test_a_dead_engine_stays_dead() -> None:
    engine = load_scripted(Script(die_when=("deadly",)))

    assert isinstance(ask(engine, a_question("deadly"))[0], EngineDied)
    assert isinstance(ask(engine, a_question("harmless"))[0], EngineDied)


def test_a_hanging_request_ends_when_the_engine_is_closed() -> None:
    engine = load_scripted(Script(hang_when=lambda request: request.request_id == "hang"))

    async def hang() -> None:
        task = asyncio.create_task(engine.submit(a_question("hang")))
        await asyncio.sleep(0)  # the other task goes as far as it can
        assert not task.done()
        engine.close()
        engine.close()
        await task

    with pytest.raises(EngineDied, match="closed"):
        asyncio.run(hang())


def test_a_cancelled_request_ends_with_as_many_words_as_its_delay_had_time_for() -> None:
    whole = " ".join(f"word{number}" for number in range(16))
    engine = load_scripted(Script(answer=whole, delay_s=1.0, hang_when=("hang",)))

    async def cancel() -> list[Completion]:
        questions = [a_question("slow"), a_question("slow"), a_question("hang")]
        tasks = [asyncio.create_task(engine.submit(question)) for question in questions]
        await asyncio.sleep(0.3)
        assert not engine.cancel("unknown")
        assert all([await asyncio.to_thread(engine.cancel, name) for name in ("slow", "hang")])
        return await asyncio.gather(*tasks)

    *parts, nothing = asyncio.run(cancel())

    for part in parts:
        assert 0 < len(part.token_ids) < 16
        assert whole.startswith(part.text)
        assert len(part.text.split()) == len(part.token_ids)
    assert (nothing.text, nothing.token_ids, nothing.mean_logprob) == ("", (), None)
    assert {part.finish_reason for part in (*parts, nothing)} == {"cancelled"}
    assert not engine.cancel("slow")
    stats = engine.stats()
    assert (stats.num_completed, stats.num_failed, stats.num_running) == (3, 0, 0)


def test_stats_add_up() -> None:
    engine = load_scripted(Script(fail_when=("bad",), delay_spread_s=0.01))

    ask(engine, a_question("a", key="k"), a_question("b", key="k"), a_question("bad"))

    stats = engine.stats()
    assert (stats.num_requests, stats.num_completed, stats.num_failed) == (3, 2, 1)
    assert (stats.media_encoded, stats.media_reused, stats.num_running) == (1, 1, 0)


@pytest.mark.parametrize(("rule", "code"), [("exit_when", 70), ("kill_when", -9)])
def test_a_disaster_ends_the_process_as_often_as_the_script_says(
    rule: str, code: int, tmp_path: object
) -> None:
    program = (
        "import asyncio\n"
        "from phicorpus.engine.engine import Request\n"
        "from phicorpus.engine.scripted import Script, load_scripted\n"
        "from phicorpus.models.model import Turn\n"
        f"script = Script({rule}=('bomb',), strikes_path={str(tmp_path)!r})\n"
        "request = Request(request_id='r', turns=(Turn('user', ('bomb',)),), max_new_tokens=4)\n"
        "asyncio.run(load_scripted(script).submit(request))\n"
    )

    codes = [
        subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode  # noqa: S603
        for _ in range(2)
    ]

    assert codes == [code, 0]
