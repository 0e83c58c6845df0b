"""The library is as `library_loop` knows it; a decoding loop without the engine around it."""

import inspect
import queue
from dataclasses import fields

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchingManager,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import RequestState

from phicorpus.engine import attention
from phicorpus.engine.engine import BusyTime
from phicorpus.engine.library_loop import DecodeLoop, SamplingProcessor, why_unsupported
from phicorpus.engine.sampling import Sampler, SamplingState
from tests.engine.builders import BANNED_ID, FakeModel, a_config, a_decoder, a_request, reference


class Recorder:
    """A receiver that keeps its tokens, and ends the request after some tokens."""

    def __init__(self, num_tokens: int, sampling: SamplingState | None = None) -> None:
        self.sampling = sampling
        self.token_ids: list[int] = []
        self._num_tokens = num_tokens

    def on_token(self, token_id: int, logprob: float) -> bool:
        assert logprob <= 0
        self.token_ids.append(token_id)
        return len(self.token_ids) >= self._num_tokens


def test_the_known_names_are_there() -> None:
    assert why_unsupported(a_decoder()) is None
    manager = inspect.getsource(ContinuousBatchingManager)
    names = "input_queue _wake_up_loop _generation_thread background_thread_status output_router"
    for name in f"{names} logit_processor batch_processor _run_generation_loop pause".split():
        assert f"self.{name}" in manager or f"def {name}" in manager
    assert {"request_id", "initial_tokens", "max_new_tokens", "generated_tokens"} <= {
        field.name for field in fields(RequestState)
    }
    for owner, name in (
        (OutputRouter, "deliver_batch"),
        (RequestState, "update_and_check_completion"),
        (RequestState, "create_equivalent_initial_request"),
        (BackgroundThreadStatus, "clear"),
        (ContinuousBatchingLogitsProcessorList, "_retrieve_processors_kwargs"),
    ):
        assert callable(getattr(owner, name))


def test_a_request_that_loses_its_pages_starts_again_and_stays_right() -> None:
    model = FakeModel(stops=False)
    config = a_config(cache=256, page=8, requests=12)
    over: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
    model.decoder.set_attn_implementation("sdpa")
    attention.register()
    model.decoder.set_attn_implementation(attention.NAME)
    processor = SamplingProcessor(Sampler({BANNED_ID}, torch.device("cpu")))
    loop = DecodeLoop(
        model.decoder, processor, config, lambda name, error: over.put((name, error)), BusyTime()
    )
    requests = [a_request("q" * (index + 3), new=50) for index in range(12)]
    watches = [Recorder(50) for _ in requests]
    prompts = [
        [part for part in model.tokenize(r.turns) if isinstance(part, int)] for r in requests
    ]

    for index, prompt in enumerate(prompts):  # without scheduler: 12 x 60 tokens, room for 256
        loop.put(str(index), prompt, 50, watches[index])
    ends = dict(over.get(timeout=30) for _ in requests)
    loop.stop(timeout_s=10)

    fed = sum(len(prompt) + 49 for prompt in prompts)
    assert ends == {str(index): None for index in range(12)}
    assert processor.num_decoded < fed - sum(map(len, prompts))  # some came back by prefill
    for request, watch in zip(requests, watches, strict=True):
        assert watch.token_ids == reference(request, stops=False)
