"""The decoding loop: transformers' continuous batching, and the use of its inside.

Known to hold for transformers 5.23; `why_unsupported` says so before anything is built on it.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, Phi3ForCausalLM
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
    RequestState,
    RequestStatus,
)

from phicorpus.config import EngineConfig
from phicorpus.engine import attention, kernel_check
from phicorpus.engine.engine import BusyTime
from phicorpus.engine.last_layer import LastLayer
from phicorpus.engine.sampling import Sampler, SamplingState
from phicorpus.engine.step_inputs import StepInputs

SUPPORTED_VERSION = "5.23"

_LIBRARY_LOGGER = "ContinuousBatchingLogger"

log = logging.getLogger(__name__)


def why_unsupported(decoder: Phi3ForCausalLM) -> str | None:
    """Return why continuous batching cannot run this decoder here; None if it can."""
    if not transformers.__version__.startswith(SUPPORTED_VERSION + "."):
        return f"transformers is {transformers.__version__}, known is {SUPPORTED_VERSION}"
    if getattr(decoder.config, "sliding_window", None) is not None:
        return "a sliding window forbids prefix sharing"
    if decoder.device.type == "cuda":
        return kernel_check.why_unsupported(decoder)
    return None if decoder.device.type == "cpu" else f"untried on {decoder.device.type}"


class TokenReceiver(Protocol):
    """Receives the tokens of one request, as `Attempt` does. Called from the loop's thread."""

    sampling: SamplingState | None

    def on_token(self, token_id: int, logprob: float) -> bool:
        """Take a token and its ln p; return True to end the request."""
        ...


@dataclass
class LoopRequest(RequestState):
    """A request of the library that its receiver ends, at the exact token."""

    receiver: TokenReceiver | None = None
    processor: SamplingProcessor | None = None
    row: int = -1  # of its logits in the step under way

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        """Take a token; return whether the request is over."""
        was_decoding = self.generated_len() > 0
        done = super().update_and_check_completion(token_id, logprob)
        if self.receiver is None or self.processor is None:
            return done
        self.processor.num_decoded += was_decoding
        if self.receiver.on_token(token_id, self.processor.logprob(self.row)) and not done:
            self.status = RequestStatus.FINISHED
            return True
        return done

    def create_equivalent_initial_request(self) -> LoopRequest:
        """Begin anew after the loop took back this request's pages; the receiver stays."""
        plain = super().create_equivalent_initial_request()
        values = {field.name: getattr(plain, field.name) for field in fields(RequestState)}
        return LoopRequest(**values, receiver=self.receiver, processor=self.processor)


class SamplingProcessor(ContinuousBatchingLogitsProcessor):
    """Chooses each step's tokens, and keeps their log-probabilities for the receivers."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 declared so by the library
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, sampler: Sampler) -> None:
        self.num_decoded = 0  # tokens that were fed one by one
        self._sampler = sampler
        self._states: list[SamplingState | None] = []
        self._logprobs = torch.empty(0)
        self._on_host: list[float] | None = None

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Zero the library's argument tensor, which this processor does not use."""
        int32_tensor.zero_()

    def prepare_tensor_args(
        self, requests_with_new_token: list[FutureRequestState]
    ) -> torch.Tensor:
        """Note which request has which row of the step's logits."""
        self._states = []
        for row, request in enumerate(requests_with_new_token):
            state = request.state
            receiver = state.receiver if isinstance(state, LoopRequest) else None
            self._states.append(receiver.sampling if receiver is not None else None)
            if isinstance(state, LoopRequest):
                state.row = row
        return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Change logits of shape (rows, vocabulary) so that argmax gives each row's token."""
        scores, self._logprobs = self._sampler.choose(scores, self._states)
        self._on_host = None
        return scores

    def logprob(self, row: int) -> float:
        """Return ln p of the token that a row of the last step got."""
        if self._on_host is None:
            self._on_host = self._logprobs.tolist()
        return self._on_host[row]


class _DaemonManager(ContinuousBatchingManager):
    """The library's manager on a daemon thread, so that a process can end without it."""

    busy: BusyTime

    def start(self) -> None:
        """Start the loop; its memory is taken, or could not be, when this returns."""
        self.background_thread_status.clear()
        self._is_ready = threading.Event()
        self._generation_thread = threading.Thread(
            target=self._run, name="phicorpus-decode", daemon=True
        )
        self._generation_thread.start()
        self._is_ready.wait()

    def _run(self) -> None:
        try:
            self._run_generation_loop()
        finally:
            self._is_ready.set()

    def _generation_step(self) -> None:
        with self.busy:  # the library returns when the device is done
            super()._generation_step()

    def join(self, stop_trigger_time: float, timeout: float | None = None) -> None:
        """Wait for the loop's end; wake it first, or it finds the end after its next poll."""
        self._wake_up_loop.set()
        super().join(stop_trigger_time, timeout)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        processor = super()._create_batch_processor()
        inputs = StepInputs.of(processor)
        processor.inputs_and_outputs = processor.model_runner.inputs_and_outputs = inputs
        self._is_ready.set()
        return processor


class _ImmediateRouter(OutputRouter):
    """Hands outputs on at once, instead of keeping them for a poll."""

    def __init__(self, deliver: Callable[[str, str | None], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def deliver(self, output: GenerationOutput) -> None:
        if output.is_finished():
            self._deliver(output.request_id, output.error)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self.deliver(output)


class DecodeLoop:
    """One running loop over one decoder, which must not be run elsewhere meanwhile.

    The decoder's attention has to be `attention.NAME`.

    Args:
        decoder: Reads token ids, virtual ones too.
        processor: Chooses tokens.
        config: Sizes.
        deliver: Called from the loop's thread with a request's id when it is over, and with what
            went wrong, if it did. After an error the loop is dead.
        busy: Counts the time of the passes.

    Attributes:
        kv_memory: The storage of the KV cache; empty when the loop has stopped.
    """

    def __init__(
        self,
        decoder: Phi3ForCausalLM,
        processor: SamplingProcessor,
        config: EngineConfig,
        deliver: Callable[[str, str | None], None],
        busy: BusyTime,
    ) -> None:
        self._processor = processor
        attention.register()
        logging.getLogger(_LIBRARY_LOGGER).addFilter(_is_worth_a_line)
        manager = _DaemonManager(
            model=cast("Any", decoder),
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=library_config(decoder, config),
        )
        manager.output_router = _ImmediateRouter(deliver)
        manager.busy = busy
        processors = manager.logit_processor
        processors.logits_processor.append(processor)
        processors.tensors_required += 1
        processors._retrieve_processors_kwargs()
        processors.do_processing = True
        self._last_layer = LastLayer(decoder)
        manager.start()
        self._manager = manager
        self._stopped = False
        started = manager.batch_processor
        self.kv_memory = started.cache.cache_tensor.untyped_storage() if started else None

    def put(
        self, request_id: str, ids: Sequence[int], max_new_tokens: int, receiver: TokenReceiver
    ) -> None:
        """Queue one request; its end comes through `deliver`.

        Args:
            request_id: Unique over the loop's life.
            ids: 1 or more, each in the vocabulary or of a live feature row, checked before: a
                wrong one kills the loop.
            max_new_tokens: At least 1.
            receiver: Gets its tokens.
        """
        state = LoopRequest(
            request_id=request_id,
            initial_tokens=list(ids),
            max_new_tokens=max_new_tokens,
            receiver=receiver,
            processor=self._processor,
        )
        self._manager.input_queue.put(state)
        self._manager._wake_up_loop.set()

    @property
    def is_alive(self) -> bool:
        """True while the loop runs."""
        return self._manager.is_running()

    @property
    def fatal_error(self) -> BaseException | None:
        """The error that ended the loop; None if it runs, or was stopped."""
        return self._manager.background_thread_status.fatal_error

    def between_steps(self, action: Callable[[], None]) -> None:
        """Run an action while no step runs, and forget all cached prefixes.

        Raises:
            RuntimeError: the loop is dead.
        """
        with self._manager.pause():
            action()
            if torch.cuda.is_available():  # the loop computes on a stream of its own
                torch.cuda.synchronize()
            processor = self._manager.batch_processor
            if processor is not None:
                processor.cache.evict_cached_blocks()

    def stop(self, *, timeout_s: float) -> bool:
        """End the loop and free its memory; False if its thread still runs after `timeout_s`."""
        if not self._stopped:
            self._manager.stop(hard_stop=True, timeout=timeout_s)
            self._stopped = not self._manager.is_running()
        if self._stopped:
            self._last_layer.release()
            self._free()
        return self._stopped

    def _free(self) -> None:
        """Free the KV cache and a failed step, to which a log record may still refer."""
        if self.kv_memory is not None:
            self.kv_memory.resize_(0)
        if (error := self.fatal_error) is not None:
            traceback.clear_frames(error.__traceback__)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Filter out the library's warning about a loop that was ended before it began."""
    return "was not initialized" not in record.getMessage()


def library_config(decoder: Phi3ForCausalLM, config: EngineConfig) -> ContinuousBatchingConfig:
    """Convert the engine's sizes to the library's config."""
    pages_in_place = kernel_check.reads_pages(decoder, config.page_size)
    longest = min(config.kv_cache_tokens, decoder.config.max_position_embeddings)
    return ContinuousBatchingConfig(
        page_size=config.page_size,
        num_blocks=config.kv_cache_tokens // config.page_size,  # never sized by the library
        max_memory_percent=1.0,  # the plan left headroom; the default refuses the last 10 %
        max_batch_tokens=config.max_batch_tokens,
        max_requests_per_batch=min(config.max_requests, config.max_batch_tokens),
        max_blocks_per_request=-(-longest // config.page_size) + 1 if pages_in_place else 0,
        use_async_batching=False,  # a step must know the tokens of the last one
        use_cuda_graph=False,  # a replayed graph would not run the Python of the sampling
        auto_switch_to_flash=False,
        cpu_offload_space=0.0,
    )
