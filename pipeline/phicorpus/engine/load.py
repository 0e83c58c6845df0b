"""Which engine runs a model here."""

from __future__ import annotations

import logging

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Engine
from phicorpus.engine.library_loop import why_unsupported
from phicorpus.engine.static import StaticEngine
from phicorpus.errors import ConfigError
from phicorpus.models.model import Model

log = logging.getLogger(__name__)


def load_engine(model: Model, config: EngineConfig) -> Engine:
    """Start an engine on a loaded model: the one named, or continuous batching where it works.

    Elsewhere static batches, which answer alike and more slowly; one warning says why.

    Args:
        model: Loaded, on its device; its decoder belongs to the engine until `close`.
        config: Which engine; sizes and limits.

    Raises:
        ConfigError: the engine that is named cannot run here.
    """
    if config.name == "vllm":
        from phicorpus.engine.vllm.engine import VllmEngine  # noqa: PLC0415  (one engine of several)

        return VllmEngine(model, config)
    if config.name == "static":
        return StaticEngine(model, config)
    reason = why_unsupported(model.decoder)
    if reason is None:
        return ContinuousEngine(model, config)
    if config.name == "continuous":
        raise ConfigError(f"engine.name is continuous, which does not run here: {reason}")
    log.warning("no continuous batching: static batches", extra={"reason": reason})
    return StaticEngine(model, config)
