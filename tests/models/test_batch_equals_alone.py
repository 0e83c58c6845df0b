"""Any mix of requests, in any order, answers as each would alone; see benchmarks/ for many more."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.batch_equals_alone import (
    CONFIG,
    FAMILIES,
    GOLDENS,
    a_request,
    answer_alone,
    ask,
)
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.models.model import Modality
from phicorpus.parity.forward import PackRun, opened

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Iterator[tuple[PackRun, Modality]]:
    pack, modality = FAMILIES[request.param]
    with opened(GOLDENS / pack, device="cpu", dtype="float32") as run:
        yield run, modality


@given(seed=st.integers(0, 2**32), num_requests=st.integers(2, 5))
@settings(
    max_examples=2,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_mix_of_requests_answers_as_each_alone(
    family: tuple[PackRun, Modality], seed: int, num_requests: int
) -> None:
    run, modality = family
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    model = run.model(modality).model
    requests = [a_request(chance, run, modality, n) for n in range(num_requests)]
    alone = [answer_alone(model, request) for request in requests]

    with closing(ContinuousEngine(model, CONFIG)) as engine:
        together = asyncio.run(ask(engine, requests, 0.2, chance))

    assert [list(answer.token_ids) for answer in together] == alone
