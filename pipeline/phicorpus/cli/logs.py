"""Logs on standard error: one line per unit, with fields; rows are counted, not logged."""

from __future__ import annotations

import json
import logging
import sys

_PROJECT = "phicorpus"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


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
    """Return True where standard error takes JSON lines, and so nothing else."""
    formatters = (handler.formatter for handler in logging.getLogger(_PROJECT).handlers)
    return any(isinstance(own, FieldFormatter) and own.as_json for own in formatters)
