"""Which engine runs a model here."""

from __future__ import annotations

import logging

from pipeline.config import EngineConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.engine import Engine
from pipeline.engine.hooks import why_unsupported
from pipeline.engine.static import StaticEngine
from pipeline.models.model import Model

log = logging.getLogger(__name__)


def load_engine(model: Model, config: EngineConfig) -> Engine:
    """Start an engine on a loaded model: continuous batching where it is known to work.

    Elsewhere static batches, which answer alike and more slowly; one warning says why.

    Args:
        model: Loaded, on its device; its decoder belongs to the engine until `close`.
        config: Sizes and limits.
    """
    reason = why_unsupported(model.decoder)
    if reason is None:
        return ContinuousEngine(model, config)
    log.warning("no continuous batching: static batches", extra={"reason": reason})
    return StaticEngine(model, config)
