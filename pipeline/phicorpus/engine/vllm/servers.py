"""The vLLMs of one model: one for each kind of LongRoPE factors, started when it is needed."""

from __future__ import annotations

import asyncio

from phicorpus.config import EngineConfig
from phicorpus.engine.engine import Regime
from phicorpus.engine.frontend import Limits
from phicorpus.engine.vllm import export
from phicorpus.engine.vllm.server import Server, Size
from phicorpus.engine.vllm.temporary_folder import Folder
from phicorpus.errors import EngineDied, InferError
from phicorpus.models.model import Model


class Servers:
    """Starts them and ends them; held by one event loop.

    vLLM chooses the factors once, by its longest request, so long requests need another one, with
    weights and a KV cache of its own.

    Args:
        model: Loaded; its decoder is written to files, and taken apart.
        limits: Of a request.
        config: `page_size` is that of a KV block.
    """

    def __init__(self, model: Model, limits: Limits, config: EngineConfig) -> None:
        self._model = model
        self._limits = limits
        self._config = config
        self._folder = Folder()
        self._starting: dict[Regime, asyncio.Task[Server]] = {}
        export.write(model, self._folder.path)
        export.take_apart(model.decoder)

    def __len__(self) -> int:
        return len(self._starting)

    async def get(self, regime: Regime) -> Server:
        """Give the vLLM of a regime, starting it if there is none.

        Raises:
            ConfigError, EngineDied: the one for short requests does not start.
            InferError: the one for long requests does not start; the other goes on.
        """
        if regime not in self._starting:
            start = asyncio.to_thread(self._start, regime)
            self._starting[regime] = asyncio.ensure_future(start)
        try:
            return await asyncio.shield(self._starting[regime])
        except EngineDied as error:
            if regime == "short":
                raise
            raise InferError(f"a second vLLM, for the long LongRoPE factors: {error}") from error

    def abandon(self) -> None:
        """Start no further one: the process may be about to end without another word."""
        self._folder.remove()

    async def close(self) -> None:
        """End all of them, those that are starting too."""
        for server in await asyncio.gather(*self._starting.values(), return_exceptions=True):
            if isinstance(server, Server):
                await server.close()
        self._starting.clear()
        self._folder.remove()

    def _start(self, regime: Regime) -> Server:
        limits, folder = self._limits, self._folder.path
        longest = min(limits.max_length, limits.pages * limits.page_size)
        if regime == "short" and limits.regime_length:
            longest = min(longest, limits.regime_length)
        size = Size(max_length=longest, blocks=limits.pages, config=self._config)
        server = Server(self._model, folder, size)
        if not limits.regime_length:  # there will be no other
            export.remove_weights(folder)
        return server
