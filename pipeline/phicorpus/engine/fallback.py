"""Temperature fallback: ask again with sampling when an answer is a loop, empty or unreadable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from phicorpus.config import RetryConfig
from phicorpus.engine.engine import Completion, Engine, Request
from phicorpus.errors import AnswerError, Cancelled, SegmentError
from phicorpus.tasks.question import Question
from phicorpus.tasks.task import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The best of the answers.

    Attributes:
        completion: The model's.
        answer: As the task reads it.
        attempts: Times that the model was asked.
        is_degenerate: True where even the best is a loop, or is empty where the task wants words.
    """

    completion: Completion
    answer: Answer
    attempts: int
    is_degenerate: bool


async def ask(engine: Engine, request: Request, question: Question) -> Reply:
    """Ask, and ask again with sampling and without repeats while the answer is bad.

    An answer that ended is better than a loop, a loop better than no words; of two loops, the one
    with more different tokens. The seeds follow from the request's, so the reply does too.

    Raises:
        AnswerError: the task could read none of the answers; the first one's.
        Cancelled: one of the requests was, whatever the others gave: their best might have come.
        SegmentError: the first request failed.
    """
    found: list[tuple[int, int, Completion, Answer]] = []
    failure: SegmentError | None = None
    attempts = 0
    for attempt in _attempts(request, question.retry):
        attempts += 1
        try:
            completion = await _completion(engine, attempt)
            answer = question.task.parse(completion.text)
        except Cancelled:
            raise
        except SegmentError as error:
            failure = failure or error
            if not isinstance(error, AnswerError):
                break
            continue
        badness = _badness(completion, answer, question)
        found.append((badness, -len(set(completion.token_ids)), completion, answer))
        if not badness:
            break
    if not found:
        raise failure or AnswerError(f"{request.request_id}: not asked")
    badness, _, completion, answer = min(found, key=lambda one: one[:2])
    return Reply(completion=completion, answer=answer, attempts=attempts, is_degenerate=badness > 0)


async def _completion(engine: Engine, request: Request) -> Completion:
    completion = await engine.submit(request)
    if completion.finish_reason == "cancelled":
        count, most = len(completion.token_ids), request.max_new_tokens
        raise Cancelled(f"{request.request_id}: cancelled after {count} of at most {most} tokens")
    return completion


def _attempts(request: Request, retry: RetryConfig) -> Iterator[Request]:
    yield request
    for number, temperature in enumerate(retry.temperatures, start=1):
        yield replace(
            request,
            temperature=temperature,
            seed=request.seed + number,
            no_repeat_ngram=retry.no_repeat_ngram,
        )


def _badness(completion: Completion, answer: Answer, question: Question) -> int:
    if not answer.text and not question.task.may_be_empty:
        return 2
    return int(completion.finish_reason == "loop")
