"""The continuous engine on a GPU, against static batches; bfloat16, so up to its noise."""

import pytest
import torch

from phicorpus.engine.continuous import ContinuousEngine
from tests.engine.builders import FakeModel, a_clip, a_config, a_request, an_image, complete
from tests.engine.static import StaticEngine

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("page", [32, 256], ids=["packed", "pages in place"])
def test_the_gpu_answers_as_static_batches_do(page: int) -> None:
    requests = [
        a_request(an_image(f"{index % 5}", rows=100), a_clip(f"{index}"), "q" * index, new=24)
        for index in range(24)
    ]
    config = a_config(page=page, cache=32_768, batch_tokens=512)
    engines = ContinuousEngine, StaticEngine
    answers = []
    for kind in engines:
        model = FakeModel(stops=False, device="cuda", dtype=torch.bfloat16)
        engine = kind(model, config)
        answers.append(complete(engine, requests))
        engine.close()

    same = [ours.token_ids[0] == static.token_ids[0] for ours, static in zip(*answers, strict=True)]
    assert sum(same) >= 22
    for ours, static in zip(*answers, strict=True):
        assert ours.mean_logprob is not None
        assert static.mean_logprob is not None
        assert ours.mean_logprob == pytest.approx(static.mean_logprob, abs=0.5)


def test_a_thousand_steps_stay_finite() -> None:
    model = FakeModel(stops=False, device="cuda", dtype=torch.bfloat16)
    model.max_length = 2048
    engine = ContinuousEngine(model, a_config(page=256, cache=32_768, batch_tokens=512))

    completions = complete(engine, [a_request("q" * index, new=1000) for index in range(1, 9)])

    engine.close()
    for completion in completions:
        assert completion.mean_logprob is not None
        assert completion.mean_logprob > -20
