import asyncio
from collections.abc import Mapping, Sequence

import pytest

from phicorpus.config import RetryConfig, TaskConfig
from phicorpus.engine import fallback
from phicorpus.engine.capabilities import Capabilities
from phicorpus.engine.engine import Completion, EngineStats, FinishReason, Request
from phicorpus.engine.fallback import Reply
from phicorpus.errors import AnswerError, Cancelled, InferError
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import Question, questions
from phicorpus.tasks.task import Answer, Task
from tests.engine.builders import a_request

Given = tuple[str, FinishReason] | Exception


class Answers:
    """An engine that gives prepared answers, one after another."""

    capabilities = Capabilities()

    def __init__(self, *answers: Given) -> None:
        self.asked: list[Request] = []
        self._answers = list(answers)

    async def submit(self, request: Request) -> Completion:
        self.asked.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        text, reason = answer
        return Completion(
            text=text, token_ids=tuple(text.encode()), prompt_tokens=1, finish_reason=reason,
            mean_logprob=-1.0, regime="short",
        )  # fmt: skip

    def cancel(self, request_id: str) -> bool:
        return request_id in {request.request_id for request in self.asked}

    def stats(self) -> EngineStats:
        return EngineStats()

    def describe(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        pass


def parse_number(text: str) -> Answer:
    if not text.isdigit():
        raise AnswerError(f"{text!r} is no number")
    return Answer(text=text)


def a_question(
    name: str = "caption", *, temperatures: Sequence[float] = (0.2, 0.6), ngram: int = 16
) -> Question:
    retry = RetryConfig(temperatures=tuple(temperatures), no_repeat_ngram=ngram)
    number = Task(
        name="number", version=1, kinds=frozenset({"image"}), modality="vision", prompt="How many?",
        max_new_tokens=4, parse=parse_number,
    )  # fmt: skip
    return questions({name: TaskConfig(retry=retry)}, {**TASKS, "number": number})[name]


def ask(engine: Answers, question: Question) -> Reply:
    return asyncio.run(fallback.ask(engine, a_request("q"), question))


def test_a_good_answer_is_asked_for_once() -> None:
    reply = ask(Answers(("a cat", "stop")), a_question())

    assert (reply.answer.text, reply.attempts, reply.is_degenerate) == ("a cat", 1, False)


def test_a_loop_is_asked_again_hotter_without_repeats_and_with_other_seeds() -> None:
    engine = Answers(("lalala", "loop"), ("lolo", "loop"), ("a song", "length"))

    reply = ask(engine, a_question())

    assert (reply.answer.text, reply.attempts, reply.is_degenerate) == ("a song", 3, False)
    ways = [(r.temperature, r.no_repeat_ngram, r.seed) for r in engine.asked]
    assert ways == [(0.0, 0, 0), (0.2, 16, 1), (0.6, 16, 2)]
    assert len({request.turns for request in engine.asked}) == 1


def test_what_stays_a_loop_is_kept_with_most_of_its_words_and_told() -> None:
    engine = Answers(("lalala", "loop"), ("tralala", "loop"), (" ", "stop"))

    reply = ask(engine, a_question())

    assert (reply.answer.text, reply.attempts, reply.is_degenerate) == ("tralala", 3, True)


def test_an_empty_answer_is_asked_again_only_where_words_are_wanted() -> None:
    caption = ask(Answers(("", "stop"), ("a cat", "stop")), a_question("caption"))
    ocr = ask(Answers(("", "stop"), ("a cat", "stop")), a_question("ocr"))

    assert (caption.answer.text, caption.attempts) == ("a cat", 2)
    assert (ocr.answer.text, ocr.attempts, ocr.is_degenerate) == ("", 1, False)


def test_an_answer_that_cannot_be_read_is_asked_again() -> None:
    reply = ask(Answers(("seven", "stop"), ("7", "stop")), a_question("number"))

    assert (reply.answer.text, reply.attempts) == ("7", 2)


def test_what_can_never_be_read_is_the_first_answers_error() -> None:
    engine = Answers(("one", "stop"), ("two", "stop"), ("three", "stop"))

    with pytest.raises(AnswerError, match="one"):
        ask(engine, a_question("number"))


def test_a_retry_that_fails_leaves_the_answer_that_is_there() -> None:
    reply = ask(Answers(("lalala", "loop"), InferError("lost")), a_question())

    assert (reply.answer.text, reply.attempts, reply.is_degenerate) == ("lalala", 2, True)


def test_a_request_that_fails_at_once_is_not_repeated() -> None:
    engine = Answers(InferError("lost"))

    with pytest.raises(InferError, match="lost"):
        ask(engine, a_question())

    assert len(engine.asked) == 1


@pytest.mark.parametrize("name", ["caption", "number"])
def test_a_cancelled_request_is_not_asked_again_whatever_is_there(name: str) -> None:
    engine = Answers(("1", "loop"), ("seven", "cancelled"), ("7", "stop"))
    at_once = Answers(("", "cancelled"), ("7", "stop"))

    with pytest.raises(Cancelled, match="request 1: cancelled after 5 of at most 12 tokens"):
        ask(engine, a_question(name))
    with pytest.raises(Cancelled, match="after 0"):
        ask(at_once, a_question(name))

    assert (len(engine.asked), len(at_once.asked)) == (2, 1)


def test_retries_can_be_switched_off() -> None:
    reply = ask(Answers(("lalala", "loop")), a_question(temperatures=()))

    assert (reply.attempts, reply.is_degenerate) == (1, True)
