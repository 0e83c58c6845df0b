"""Logs: one line per unit, with fields; rows are counted, not logged. No library reports home."""

from __future__ import annotations

import json
import logging
import os
import sys

_PROJECT = "phicorpus"
_REPORTS = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: an id and a queue of events in HOME, and a host
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def report_nothing() -> None:
    """Keep libraries from reporting their use to their makers: corpora are private.

    Whoever imports such a library calls this first; importing this project does. What the
    environment says otherwise is overridden, but for Ray's, which its cluster's owner decides.
    """
    for name, value in _REPORTS.items():
        if name == "RAY_USAGE_STATS_ENABLED":
            os.environ.setdefault(name, value)
        else:
            os.environ[name] = value


class FieldFormatter(logging.Formatter):
    """`time level message key=value ...`, or one JSON object per line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD and k[0] != "_"}
        if self.as_json:
            head = {"time": self.formatTime(record), "level": record.levelname}
            line = head | {"message": record.getMessage()} | fields
            if record.exc_info:
                line["exception"] = self.formatException(record.exc_info)
            return json.dumps(line, default=str)
        tail = "".join(f" {key}={value}" for key, value in fields.items())
        return super().format(record) + tail


def configure_logging(*, verbose: bool, as_json: bool) -> None:
    """Send this project's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(as_json=as_json))
    logger = logging.getLogger(_PROJECT)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose or as_json else logging.WARNING)
    logger.propagate = False


def logs_json() -> bool:
    """Tell whether standard error takes JSON lines, and so nothing else."""
    formatters = (handler.formatter for handler in logging.getLogger(_PROJECT).handlers)
    return any(isinstance(own, FieldFormatter) and own.as_json for own in formatters)
