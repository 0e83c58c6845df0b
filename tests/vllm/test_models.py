"""Every family on vLLM answers as each of its requests does alone, by plain forward passes."""

import asyncio
import random
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.batch_equals_alone import FAMILIES, GOLDENS, a_request, answer_alone, ask
from phicorpus.engine.vllm.engine import VllmEngine
from tests.vllm.builders import engine_config, needs_vllm, opened_wide

pytestmark = needs_vllm
NUM_REQUESTS = 40


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_mix_of_requests_answers_as_each_alone(family: str, tmp_path: Path) -> None:
    pack, modality = FAMILIES[family]
    chance = random.Random(7)  # noqa: S311 - not for secrets
    with opened_wide(GOLDENS / pack, tmp_path / pack) as run:
        model = run.model(modality).model
        requests = [a_request(chance, run, modality, n) for n in range(NUM_REQUESTS)]
        alone = [answer_alone(model, request) for request in requests]

        with closing(VllmEngine(model, engine_config())) as engine:
            together = asyncio.run(ask(engine, requests, 0.2, chance))
            stats = engine.stats()

    assert [list(answer.token_ids) for answer in together] == alone
    assert {answer.regime for answer in together} == {"short", "long"}
    assert stats.extra["servers"] == 2
    assert engine.capabilities.decoder_per_regime
