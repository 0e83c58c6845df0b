"""The vLLM servers of one model: started when needed, asked, and ended.

Known to hold for vLLM 0.32; `registry.check_config` checks that before anything is built on it.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Request
from phicorpus.engine.frontend import RequestLimits
from phicorpus.engine.vllm import export
from phicorpus.engine.vllm.media_rows import Prompt
from phicorpus.engine.vllm.sampling import KEY, settings
from phicorpus.errors import ConfigError, EngineDied, InferError
from phicorpus.models.model import Model, Regime

PROCESSOR = "phicorpus.engine.vllm.vllm_names:SamplingProcessor"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray places the actors
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "phicorpus",  # no other's
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # which has another interface for choosing tokens
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
SPARE_BLOCKS = 8  # vLLM keeps one for itself
_NO_SHARE = 0.05  # of the GPU that has to be free: the KV cache is sized by us


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The tokens of a request since its last step.

    Attributes:
        tokens: Ids with their ln p.
        cached_tokens: Of the prompt, found in the prefix cache.
    """

    tokens: Sequence[tuple[int, float]]
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sizes of one vLLM.

    Attributes:
        max_length: Prompt and answer, tokens; decides about the LongRoPE factors.
        num_blocks: KV blocks.
        config: The engine's; `page_size` is the size of a block.
    """

    max_length: int
    num_blocks: int
    config: EngineConfig


class _Logprob(Protocol):
    logprob: float


class Server:
    """One vLLM engine and its processes.

    Blocks until vLLM has started, which takes the better part of a minute.

    Args:
        model: Loaded.
        folder: The decoder's files, by `export.write`.
        size: Its sizes.

    Raises:
        EngineDied: it does not start.
        ConfigError: this build of vLLM does not run on the model's device.
    """

    def __init__(self, model: Model, folder: Path, size: Size) -> None:
        os.environ.update(ENVIRONMENT)  # before vLLM is imported, and for its processes
        from phicorpus.engine.vllm import vllm_names  # noqa: PLC0415  (vLLM, in actors only)

        self._vllm = vllm_names
        self._stop_ids = sorted(model.stop_ids)
        self._banned_ids = sorted(model.banned_ids)
        device = model.decoder.device.type
        if vllm_names.current_platform.device_type != device:
            raise ConfigError(
                f"this build of vLLM runs on {vllm_names.current_platform.device_type},"
                f" the model on {device}"
            )
        arguments = vllm_names.AsyncEngineArgs(**engine_arguments(model, folder, size))
        try:
            self._engine = vllm_names.AsyncLLM.from_engine_args(arguments)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineDied(f"vLLM does not start: {error}") from error

    async def answer(
        self, name: str, request: Request, prompt: Prompt
    ) -> AsyncGenerator[Step, None]:
        """Answer a request until the generator is closed, or vLLM has nothing to add.

        Args:
            name: Never used before.
            request: What is asked.
            prompt: As the model writes it.

        Raises:
            InferError: vLLM failed on it.
            EngineDied: vLLM is lost with all it had.
        """
        outputs = self._engine.generate(self._prompt(prompt), self._parameters(request), name)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    (choice,) = output.outputs
                    ranked = zip(choice.token_ids, choice.logprobs or (), strict=True)
                    yield Step(
                        tokens=[(token, self._logprob(token, near)) for token, near in ranked],
                        cached_tokens=output.num_cached_tokens or 0,
                    )
        except self._vllm.EngineDeadError as error:
            raise EngineDied("vLLM's core died; its log says why") from error
        except (self._vllm.EngineGenerateError, ValueError) as error:
            why = error.__cause__ or error
            raise InferError(f"vLLM failed: {why!r}") from error

    async def close(self) -> None:
        """End vLLM's processes; call it in the event loop of `answer`."""
        if self._engine.output_handler is not None:
            self._engine.output_handler.cancel()  # or it takes the end for an accident
        await asyncio.to_thread(self._engine.shutdown)
        del self._engine  # or its finalizer shuts down once more, when the interpreter is half gone

    def _prompt(self, prompt: Prompt) -> object:
        if prompt.features is None:
            return self._vllm.tokens_input(prompt.token_ids)
        return self._vllm.embeds_input(
            prompt.features, prompt_token_ids=prompt.token_ids, is_token_ids=prompt.is_word
        )

    def _parameters(self, request: Request) -> object:
        """Build greedy parameters up to the longest answer: our own sampling does the rest."""
        asked = settings(request)
        return self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=request.max_new_tokens,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,
            detokenize=False,
            logprobs=None if self._banned_ids else 0,
            logprob_token_ids=self._banned_ids or None,
            output_kind=self._vllm.RequestOutputKind.DELTA,
            extra_args={KEY: asked} if asked else None,
        )

    def _logprob(self, token_id: int, near: Mapping[int, _Logprob]) -> float:
        """Return a token's ln p without the banned ids, which vLLM's own still has."""
        banned = sum(math.exp(near[other].logprob) for other in self._banned_ids)
        return near[token_id].logprob - math.log1p(-banned) if banned < 1 else math.nan


def engine_arguments(model: Model, folder: Path, size: Size) -> dict[str, Any]:
    """Build the arguments of vLLM's `AsyncEngineArgs`."""
    decoder, config = model.decoder, size.config
    return {
        "model": str(folder),
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "max_model_len": size.max_length,
        "max_num_seqs": config.max_requests,
        "max_num_batched_tokens": max(config.max_batch_tokens, config.max_requests),
        "block_size": config.page_size,
        "kv_cache_memory_bytes": (size.num_blocks + SPARE_BLOCKS) * _block_bytes(model, config),
        "gpu_memory_utilization": _NO_SHARE,
        "enable_prefix_caching": True,
        "enable_prompt_embeds": model.modality != "text",
        "enforce_eager": decoder.device.type == "cpu",
        "async_scheduling": False,  # the next token is chosen by the one before
        "logits_processors": [PROCESSOR],
        "logprobs_mode": "raw_logprobs",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the checkpoint's
        "load_format": "safetensors",
        "trust_remote_code": False,
        "disable_log_stats": True,
    }


def _block_bytes(model: Model, config: EngineConfig) -> int:
    """Return the bytes of the keys and values of one block in all layers."""
    shape = model.decoder.config
    heads = shape.num_key_value_heads or shape.num_attention_heads
    row = 2 * heads * (shape.hidden_size // shape.num_attention_heads)
    return shape.num_hidden_layers * config.page_size * row * model.decoder.dtype.itemsize


class Servers:
    """One vLLM for each kind of LongRoPE factors, started when needed. Used by one event loop.

    vLLM chooses the factors once, by its longest request, so long requests need another one, with
    weights and a KV cache of its own.

    Args:
        model: Loaded; its decoder is written to files, and taken apart.
        limits: The limits of a request.
        config: `page_size` is that of a KV block.
    """

    def __init__(self, model: Model, limits: RequestLimits, config: EngineConfig) -> None:
        self._model = model
        self._limits = limits
        self._config = config
        self._folder = export.TemporaryFolder()
        self._starting: dict[Regime, asyncio.Task[Server]] = {}
        export.write(model, self._folder.path)
        export.take_apart(model.decoder)

    def __len__(self) -> int:
        return len(self._starting)

    async def get(self, rope_regime: Regime) -> Server:
        """Return the vLLM of a regime; start it if there is none.

        Raises:
            ConfigError, EngineDied: the one for short requests does not start.
            InferError: the one for long requests does not start; the other goes on.
        """
        if rope_regime not in self._starting:
            start = asyncio.to_thread(self._start, rope_regime)
            self._starting[rope_regime] = asyncio.ensure_future(start)
        try:
            return await asyncio.shield(self._starting[rope_regime])
        except EngineDied as error:
            if rope_regime == "short":
                raise
            raise InferError(f"a second vLLM, for the long LongRoPE factors: {error}") from error

    def abandon(self) -> None:
        """Remove the files, so that no further one starts: the process may be about to end."""
        self._folder.remove()

    async def close(self) -> None:
        """End all of them, including those that are starting."""
        for server in await asyncio.gather(*self._starting.values(), return_exceptions=True):
            if isinstance(server, Server):
                await server.close()
        self._starting.clear()
        self._folder.remove()

    def _start(self, rope_regime: Regime) -> Server:
        limits, folder = self._limits, self._folder.path
        longest = min(limits.max_length, limits.num_pages * limits.page_size)
        if rope_regime == "short" and limits.regime_length:
            longest = min(longest, limits.regime_length)
        size = Size(max_length=longest, num_blocks=limits.num_pages, config=self._config)
        server = Server(self._model, folder, size)
        if not limits.regime_length:  # there will be no other
            export.remove_weights(folder)
        return server
