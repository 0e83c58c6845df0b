"""The continuous engine on a GPU, against static batches; bfloat16, so up to its noise."""

import time
from collections.abc import Sequence

import pytest
import torch

from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.library_loop import why_unsupported
from phicorpus.engine.static import StaticEngine
from phicorpus.models.model import Slot
from tests.engine.builders import FakeModel, a_clip, a_config, a_request, an_image, complete

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
        assert why_unsupported(model.decoder) is None
        engine = kind(model, config)
        answers.append(complete(engine, requests))
        engine.close()

    same = [ours.token_ids[0] == static.token_ids[0] for ours, static in zip(*answers, strict=True)]
    assert sum(same) >= 22
    for ours, static in zip(*answers, strict=True):
        assert ours.mean_logprob is not None
        assert static.mean_logprob is not None
        assert ours.mean_logprob == pytest.approx(static.mean_logprob, abs=0.5)


class Observed(FakeModel):
    """Notes on which stream it encodes and decodes, and encodes for long."""

    def __init__(self) -> None:
        super().__init__(stops=False, device="cuda", dtype=torch.bfloat16)
        self.streams: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
        self.decoded_meanwhile = 0
        self.decoder.register_forward_pre_hook(lambda *_: self._note("decoder"))

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        self._note("encoder")
        before, over = self.num_forwards, torch.cuda.Event()
        torch.cuda._sleep(2_000_000_000)  # of the GPU's clock: about a second
        over.record()
        while not over.query():
            time.sleep(0.01)
        self.decoded_meanwhile = self.num_forwards - before
        return super().encode(slots)

    def _note(self, part: str) -> None:
        self.streams[part].add(torch.cuda.current_stream().cuda_stream)


def test_decoding_does_not_wait_for_what_is_being_encoded() -> None:
    model = Observed()
    engine = ContinuousEngine(model, a_config(page=256, cache=32_768, batch_tokens=512))

    complete(engine, [a_request("q", new=400), a_request(an_image("a"), new=4)])

    engine.close()
    default = torch.cuda.default_stream().cuda_stream
    assert not model.streams["encoder"] & {default, *model.streams["decoder"]}
    assert model.decoded_meanwhile > 10


def test_a_thousand_steps_stay_finite() -> None:
    model = FakeModel(stops=False, device="cuda", dtype=torch.bfloat16)
    model.max_length = 2048
    engine = ContinuousEngine(model, a_config(page=256, cache=32_768, batch_tokens=512))

    completions = complete(engine, [a_request("q" * index, new=1000) for index in range(1, 9)])

    engine.close()
    for completion in completions:
        assert completion.mean_logprob is not None
        assert completion.mean_logprob > -20
