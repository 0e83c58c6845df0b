"""Guided answers and answers without repeats, through every engine, beside plain ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import jsonschema
import pytest
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Completion, Engine, Guide
from phicorpus.errors import RequestRefused
from phicorpus.models.model import Model
from tests.engine.builders import (
    FakeModel,
    a_config,
    a_request,
    an_image,
    ask,
    complete,
    reference,
)
from tests.engine.static import StaticEngine

pytestmark = pytest.mark.slow

Load = Callable[[Model, EngineConfig], Engine]

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bar", "line", "pie"]},
        "title": {"type": "string", "maxLength": 8},
        "values": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "integer", "minimum": -99, "maximum": 999},
        },
        "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 4}]},
    },
    "required": ["kind", "title", "values", "note"],
    "additionalProperties": False,
}
JSON = Guide(json_schema=json.dumps(SCHEMA))
DATE = Guide(regex=r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
CHOICE = Guide(choices=("yes", "no", 'he said "maybe"\n'))


def guided(index: int, guide: Guide, *, new: int = 120, temperature: float = 0.0) -> Any:
    plain = a_request(
        an_image(f"{index % 3}"), "q" * (index + 1), new=new, temperature=temperature, seed=index
    )
    return replace(plain, guide=guide)


def text_of(completion: Completion) -> str:
    """The answer in UTF-8, as grammars know it; the fake tokenizer shows bytes one by one."""
    return completion.text.encode("latin-1").decode("utf-8")


def looping_model() -> FakeModel:
    """A model without layers, so that a token decides the next one."""
    model = FakeModel(stops=False)
    for layer in cast("Any", model.decoder.model.layers):
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def test_every_guided_answer_matches_and_its_neighbours_answer_as_alone(load: Load) -> None:
    engine = load(FakeModel(), a_config(batch_tokens=256))
    guides = [JSON, DATE, CHOICE, None]
    requests = [
        guided(index, guide, temperature=0.0 if index % 3 else 1.5)
        if (guide := guides[index % 4]) is not None
        else a_request(an_image(f"{index % 3}"), "q" * (index + 1), new=30)
        for index in range(48)
    ]

    completions = complete(engine, requests)

    for request, completion in zip(requests, completions, strict=True):
        if request.guide is None:
            assert list(completion.token_ids) == reference(request)
            continue
        assert completion.finish_reason == "stop"
        assert completion.mean_logprob is not None
        if request.guide is JSON:
            jsonschema.validate(json.loads(text_of(completion)), SCHEMA)
        elif request.guide is CHOICE:
            assert text_of(completion) in CHOICE.choices
        else:
            assert [len(part) for part in completion.text.split("-")] == [4, 2, 2]
    assert len({completion.text for completion in completions}) > 30


def test_both_engines_give_a_guided_request_the_same_tokens() -> None:
    requests = [guided(index, guide) for index, guide in enumerate([JSON, DATE, CHOICE] * 4)]
    answers = []
    for kind in (ContinuousEngine, StaticEngine):
        engine = kind(FakeModel(), a_config())
        answers.append([completion.token_ids for completion in complete(engine, requests)])
        engine.close()

    assert answers[0] == answers[1]


def test_an_answer_that_is_cut_inside_its_json_says_so(load: Load) -> None:
    engine = load(FakeModel(), a_config())

    (completion,) = complete(engine, [guided(0, JSON, new=5)])

    assert (completion.finish_reason, len(completion.token_ids)) == ("length", 5)


def test_an_answer_that_is_complete_at_its_last_token_is_no_cut_one(load: Load) -> None:
    engine = load(FakeModel(), a_config())

    (completion,) = complete(engine, [guided(0, DATE, new=10)])

    assert (completion.finish_reason, len(completion.token_ids)) == ("stop", 10)


def test_guides_that_are_not_valid_are_refused_and_hurt_nobody(load: Load) -> None:
    engine = load(FakeModel(), a_config())
    wrong = [
        Guide(regex="(a"),
        Guide(json_schema="{"),
        Guide(json_schema="[1]"),
        Guide(json_schema='{"type": "strin"}'),
        Guide(),
        Guide(regex="a", choices=("b",)),
    ]
    good = a_request("good", new=10)

    replies = ask(engine, [*(guided(0, guide) for guide in wrong), good])

    assert [type(reply) for reply in replies[:-1]] == [RequestRefused] * len(wrong)
    assert list(complete(engine, [good])[0].token_ids) == reference(good)


def test_stop_texts_beside_a_guide_are_refused_as_they_would_tear_the_answer(load: Load) -> None:
    engine = load(FakeModel(), a_config())
    whole, torn = guided(0, DATE), replace(guided(0, DATE), stop=("never", "-"))

    replies = ask(engine, [whole, torn, replace(whole, stop=("",))])

    assert isinstance(replies[1], RequestRefused)
    assert "stop" in str(replies[1])
    for reply in (replies[0], replies[2]):
        assert isinstance(reply, Completion)
        assert (reply.finish_reason, len(reply.text)) == ("stop", 10)


def test_a_model_without_stop_ids_cannot_be_guided(load: Load) -> None:
    engine = load(FakeModel(stops=False), a_config())

    (reply,) = ask(engine, [guided(0, DATE)])

    assert isinstance(reply, RequestRefused)
    assert "stop ids" in str(reply)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_answers_without_repeats_equal_those_of_generate(load: Load, size: int) -> None:
    engine = load(FakeModel(), a_config())
    requests = [
        replace(
            a_request(an_image(f"{index % 3}"), "q" * (index + 1), new=60),
            no_repeat_ngram=size if index % 2 else 0,
        )
        for index in range(8)
    ]

    completions = complete(engine, requests)

    assert [list(c.token_ids) for c in completions] == list(map(reference, requests))


def test_a_ban_on_repeats_ends_a_loop(load: Load) -> None:
    engine = load(looping_model(), a_config())
    looping = a_request("q", new=300)

    loop, free = complete(engine, [looping, replace(looping, no_repeat_ngram=4)])

    assert loop.finish_reason == "loop"
    assert free.finish_reason == "length"


def test_a_guide_wins_over_the_ban_on_repeats(load: Load) -> None:
    engine = load(FakeModel(), a_config())
    request = replace(guided(0, Guide(regex="(ab){12}")), no_repeat_ngram=2)

    (completion,) = complete(engine, [request])

    assert completion.text == "ab" * 12
