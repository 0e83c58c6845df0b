"""Choosing tokens, on scores alone."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from phicorpus.engine.sampling import NoRepeat, Sampler, SamplingState, SeededDraw

CPU = torch.device("cpu")


class NeverWaits(TorchDispatchMode):
    """Raises where a value is read from the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_choosing_tokens_does_not_wait_for_the_device() -> None:
    scores = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    no_repeat = NoRepeat(1)
    no_repeat.take(int(scores[2].argmax()))
    states = [
        SamplingState(draw=SeededDraw(temperature=0.8, seed=1, device=CPU)),
        None,
        SamplingState(no_repeat=no_repeat),
    ]
    wanted = scores[0].log_softmax(-1)

    with NeverWaits():
        chosen, logprobs = Sampler([], CPU).choose(scores.clone(), states)

    assert float(logprobs[0]) == float(wanted[chosen[0].argmax()])
    assert int(chosen[1].argmax()) == int(scores[1].argmax())
    assert int(chosen[2].argmax()) == int(scores[2].topk(2).indices[1])
