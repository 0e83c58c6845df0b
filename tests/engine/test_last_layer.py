"""The last layer works for asked tokens alone, and answers stay what they are."""

import asyncio
from collections.abc import Callable

import torch
from torch import nn

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.last_layer import LastLayer
from phicorpus.models.model import Model
from tests.engine.builders import FakeModel, a_config, a_decoder, a_request, reference

Start = Callable[[Model, EngineConfig], ContinuousEngine]


class TokenCount:
    """Counts the tokens that a part of the decoder gets."""

    def __init__(self, part: nn.Module) -> None:
        self.each: list[int] = []
        part.register_forward_pre_hook(self._count)

    def _count(self, _part: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.each.append(args[0].shape[1])


def test_a_prompt_passes_the_last_layer_with_one_token(start: Start) -> None:
    model = FakeModel(stops=False)
    first, last = (model.decoder.model.layers[at] for at in (0, -1))
    engine = start(model, a_config())
    earlier, asked = TokenCount(first.get_submodule("mlp")), TokenCount(last.get_submodule("mlp"))
    request = a_request("a prompt of some length", new=5)
    completion = asyncio.run(engine.submit(request))
    assert list(completion.token_ids) == reference(request, stops=False)
    assert earlier.each[0] > 10
    assert asked.each == [1] * 5


def test_a_stopped_engine_leaves_the_decoder_as_it_was(start: Start) -> None:
    model = FakeModel(stops=False)
    ids, asked = torch.arange(1, 13)[None], torch.tensor([4])
    with torch.inference_mode():
        before = model.decoder(input_ids=ids, logits_indices=asked).logits

    start(model, a_config()).close()

    with torch.inference_mode():
        after = model.decoder(input_ids=ids, logits_indices=asked).logits
    assert torch.equal(after, before)


def test_asked_tokens_get_the_logits_of_the_whole_layer() -> None:
    decoder = a_decoder()
    ids, asked = torch.arange(1, 13)[None], torch.tensor([4, 11])
    with torch.inference_mode():
        whole = decoder(input_ids=ids).logits
        narrowed = LastLayer(decoder)
        part = decoder(input_ids=ids, logits_indices=asked).logits
        unasked = decoder(input_ids=ids).logits
        narrowed.release()
        released = decoder(input_ids=ids, logits_indices=asked).logits
    torch.testing.assert_close(part[:, asked], whole[:, asked])
    assert not torch.allclose(part[:, 7], whole[:, 7])
    torch.testing.assert_close(unasked, whole)
    torch.testing.assert_close(released, whole)
