"""Log lines of the workers: sent beside the driver, and logged there. No Ray here.

A worker's lines go to its own standard error, which Ray keeps on its node, and to the run's log
book. The driver takes them from there and logs them as its own, so that `--verbose`, `--log-json`
and every handler of a program that imports this package see them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PROJECT = "phicorpus"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MOST_LINES = 1000
_MOST_KNOWN = 10_000
_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a worker's log, as plain values.

    Attributes:
        logger: Name of the logger.
        level: As a number of `logging`.
        message: Its text.
        created_s: Seconds since 1970, by the worker's clock.
        fields: What it was logged with, as JSON.
        exception: A traceback; None where there is none.
    """

    logger: str
    level: int
    message: str
    created_s: float
    fields: str = "{}"
    exception: str | None = None

    def record(self) -> logging.LogRecord:
        """Return it as the record that a logger handles."""
        return logging.makeLogRecord(
            {
                **json.loads(self.fields),
                "name": self.logger,
                "levelno": self.level,
                "levelname": logging.getLevelName(self.level),
                "msg": self.message,
                "created": self.created_s,
                "msecs": self.created_s % 1 * 1000,
                "exc_text": self.exception,
            }
        )


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return what a line was logged with, by `extra`."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and k[0] != "_"}


class FieldFormatter(logging.Formatter):
    """`time level message key=value ...`, or one JSON object per line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        if not self.as_json:
            return super().format(record)
        line = {"time": self.formatTime(record), "level": record.levelname}
        line |= {"message": record.getMessage(), **fields_of(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, default=str)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        tail = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        return super().formatMessage(record) + tail


class LogSender(logging.Handler):
    """Sends each line on.

    Args:
        send: Takes a line; it has to return soon, and not to raise.
    """

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        traceback = (
            logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        )
        self._send(
            LogLine(
                logger=record.name,
                level=record.levelno,
                message=record.getMessage(),
                created_s=record.created,
                fields=json.dumps(fields_of(record), default=str),
                exception=traceback,
            )
        )


def send_logs(send: Callable[[LogLine], None]) -> None:
    """Send what this worker logs from now on, and write it to standard error.

    Ray gives a process to one run after the other: the newest one gets the lines.
    """
    written = logging.StreamHandler(sys.stderr)
    written.setFormatter(FieldFormatter(as_json=False))
    logger = logging.getLogger(PROJECT)
    logger.handlers = [written, LogSender(send)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class LogBook:
    """Lines of a run's workers that the driver has not logged yet.

    Equal lines are one: eight replicas that start alike say so once. What comes faster than the
    driver takes it is counted and left out.

    Example:
        >>> book = LogBook()
        >>> line = LogLine(logger="phicorpus", level=20, message="loaded", created_s=0.0)
        >>> for _ in range(8):
        ...     book.add(line)
        >>> [line.message for line in book.take()], book.take()
        (['loaded'], [])
    """

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._known: set[tuple[str, ...]] = set()
        self._num_left_out = 0

    def add(self, line: LogLine) -> None:
        """Add a line, unless an equal one was there."""
        key = (line.logger, line.message, line.fields, line.exception or "")
        if key in self._known:
            return
        if len(self._lines) >= _MOST_LINES:
            self._num_left_out += 1
            return
        if len(self._known) < _MOST_KNOWN:
            self._known.add(key)
        self._lines.append(line)

    def take(self) -> list[LogLine]:
        """Return the lines that came since the last call."""
        lines, self._lines = self._lines, []
        if self._num_left_out:
            last = lines[-1]
            message = f"{self._num_left_out} more lines of workers are on their nodes only"
            lines.append(
                LogLine(
                    logger=PROJECT,
                    level=logging.WARNING,
                    message=message,
                    created_s=last.created_s,
                )
            )
            self._num_left_out = 0
        return lines


@contextmanager
def relayed(take: Callable[[], Sequence[LogLine]], every_s: float = _EVERY_S) -> Iterator[None]:
    """Log in this process, while the block runs, what workers have logged.

    Args:
        take: Returns the lines that came since its last call.
        every_s: Seconds between two calls.
    """
    is_over = threading.Event()

    def relay() -> None:
        while not is_over.wait(every_s):
            _log(take())

    thread = threading.Thread(target=relay, name="phicorpus-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        _log(take())


def _log(lines: Sequence[LogLine]) -> None:
    for line in lines:
        logger = logging.getLogger(line.logger)
        if logger.isEnabledFor(line.level):
            logger.handle(line.record())
