"""A text model with a sliding window and one kind of rotary factors: Phi-3-mini-4k's shape."""

import random
from contextlib import closing
from typing import Any, cast

from phicorpus.engine.vllm.engine import VllmEngine
from tests.engine.builders import FakeModel, a_request, complete
from tests.engine.static import StaticEngine
from tests.vllm.builders import HIDDEN, engine_config, needs_vllm

pytestmark = needs_vllm


def a_model() -> FakeModel:
    model = FakeModel(hidden=HIDDEN)
    model.modality = "text"
    cast("Any", model.decoder.config).sliding_window = 24
    for layer in model.decoder.model.layers:
        cast("Any", layer).self_attn.sliding_window = 24
    return model


def test_a_sliding_window_hides_what_it_should() -> None:
    chance = random.Random(4)  # noqa: S311 - not for secrets
    texts = ["".join(chance.choices("abcdefgh ", k=chance.randint(5, 90))) for _ in range(24)]
    requests = [a_request(text, new=20, name=text) for text in texts]
    with closing(StaticEngine(a_model(), engine_config())) as static:
        expected = complete(static, requests)

    with closing(VllmEngine(a_model(), engine_config())) as engine:
        answers = complete(engine, requests)
        assert engine.stats().extra["servers"] == 1

    assert [answer.token_ids for answer in answers] == [one.token_ids for one in expected]
    with closing(StaticEngine(FakeModel(hidden=HIDDEN), engine_config())) as unlimited:
        assert complete(unlimited, requests) != expected
