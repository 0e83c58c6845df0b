"""Logs on standard error: one line per unit, with fields; rows are counted, not logged."""

from __future__ import annotations

import logging
import sys

from phicorpus.workers.logs import PROJECT, FieldFormatter


def configure_logging(*, verbose: bool, as_json: bool) -> None:
    """Send this project's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(as_json=as_json))
    logger = logging.getLogger(PROJECT)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose or as_json else logging.WARNING)
    logger.propagate = False


def logs_json() -> bool:
    """Return True where standard error takes JSON lines, and so nothing else."""
    formatters = (handler.formatter for handler in logging.getLogger(PROJECT).handlers)
    return any(isinstance(own, FieldFormatter) and own.as_json for own in formatters)
