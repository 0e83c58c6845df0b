"""The single steps that `benchmarks.gpu` measures: are they what they are called?"""

import numpy as np
import pytest
import torch

from benchmarks.gpu.decoder_steps import DecoderSteps, decoder_steps
from benchmarks.gpu.device import Ceilings
from benchmarks.gpu.model import random_model
from benchmarks.gpu.steps import Step
from phicorpus.config import EngineConfig

CONFIG = EngineConfig(max_requests=8, page_size=16, kv_cache_tokens=1024)


def test_a_step_scores_each_row_and_its_prompt() -> None:
    model = random_model("vision", rehearse=True)
    with decoder_steps(model, CONFIG, graphs=True) as steps:
        scores = [steps.decode(4, 33)(), steps.prompt(40)(), steps.mixed(3, 33, 40)()]

    assert [tuple(each.shape) for each in scores] == [(4, 320), (1, 320), (4, 320)]
    assert all(torch.isfinite(each).all() for each in scores)


def test_a_prompts_step_computes_what_the_decoder_does() -> None:
    model = random_model("vision", rehearse=True)
    ids = DecoderSteps.ids(0, 40)
    with torch.no_grad():
        expected = model.decoder(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]

    with decoder_steps(model, CONFIG, graphs=False) as steps:
        scores = steps.prompt(40)()

    np.testing.assert_allclose(scores[0].numpy(), expected.numpy(), atol=1e-5)


def test_a_step_reads_what_was_there_before() -> None:
    model = random_model("vision", rehearse=True)
    with decoder_steps(model, CONFIG, graphs=False) as steps:
        few, many = steps.decode(2, 8)(), steps.decode(2, 200)()

    assert not torch.allclose(few, many)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (Step(name="a", ms=2.0, host_ms=1.0, kernels=9, num_bytes=10**9), 50),
        (Step(name="b", ms=2.0, host_ms=1.0, kernels=9, num_bytes=10**9, graph_ms=1.0), 100),
        (Step(name="c", ms=10.0, host_ms=1.0, kernels=9, flop=10**12), 20),
    ],
)
def test_the_share_of_the_ceiling_is_that_of_the_faster_way(step: Step, share: int) -> None:
    assert step.row(Ceilings(gb_s=1000.0, tflops=500.0))[-1] == share
