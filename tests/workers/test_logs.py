"""Log lines of workers: through a log book, to the driver's loggers."""

from __future__ import annotations

import io
import json
import logging
import queue
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from phicorpus.workers.logs import (
    PROJECT,
    FieldFormatter,
    LogBook,
    LogLine,
    LogSender,
    relayed,
    send_logs,
)


@pytest.fixture
def project_logger() -> Iterator[logging.Logger]:
    """The project's logger, left as it was."""
    logger = logging.getLogger(PROJECT)
    before = logger.handlers, logger.level, logger.propagate
    yield logger
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def a_line(message: str = "loaded", level: int = logging.INFO, **fields: Any) -> LogLine:
    return LogLine(
        logger=f"{PROJECT}.engine",
        level=level,
        message=message,
        created_s=1e9,
        fields=json.dumps(fields),
    )


def test_equal_lines_of_several_workers_are_one() -> None:
    book = LogBook()

    for line in (a_line(gb=4), a_line(gb=4), a_line(gb=5), a_line("other", gb=4)):
        book.add(line)

    assert book.take() == [a_line(gb=4), a_line(gb=5), a_line("other", gb=4)]
    book.add(a_line(gb=4))
    assert book.take() == []


def test_a_flood_of_lines_is_cut_and_counted() -> None:
    book = LogBook()

    for number in range(1500):
        book.add(a_line(number=number))

    *lines, last = book.take()
    assert len(lines) == 1000
    assert (last.level, last.message[:14]) == (logging.WARNING, "500 more lines")
    assert book.take() == []


def test_a_workers_line_is_logged_by_the_driver_as_its_own(
    project_logger: logging.Logger,
) -> None:
    """With its time, fields and traceback, in either format."""
    sent: list[LogLine] = []
    project_logger.handlers = [LogSender(sent.append)]
    project_logger.setLevel(logging.INFO)
    try:
        int("no weights")
    except ValueError:
        project_logger.exception("it failed", extra={"flow": "vision", "path": PROJECT})
    project_logger.debug("a detail")

    for as_json in (True, False):
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        handler.setFormatter(FieldFormatter(as_json=as_json))
        project_logger.handlers, project_logger.propagate = [handler], False
        with relayed(sent.copy, every_s=60):
            pass  # what is there at its end is logged, too
        assert said.getvalue().count("ValueError: invalid literal") == len(sent) == 1
        if as_json:
            fields = json.loads(said.getvalue())
            assert (fields["message"], fields["flow"], fields["level"]) == (
                "it failed",
                "vision",
                "ERROR",
            )
        else:
            assert "ERROR it failed flow=vision" in said.getvalue()


def test_lines_are_logged_while_the_block_runs_and_those_below_the_level_are_not(
    project_logger: logging.Logger,
) -> None:
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            arrived.put(record.getMessage())

    project_logger.handlers = [Kept()]
    project_logger.setLevel(logging.WARNING)
    waiting = [[a_line("quiet"), a_line("loud", logging.WARNING)]]

    with relayed(lambda: waiting.pop() if waiting else [], every_s=0.01):
        assert arrived.get(timeout=60) == "loud"

    assert arrived.empty()


def test_a_worker_writes_its_lines_to_its_own_log_too(
    project_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    sent: list[LogLine] = []

    for send in (sent.append, sent.append):  # of one run after the other
        send_logs(send)
    project_logger.getChild("engine").info("loaded", extra={"gb": 4})

    assert said.getvalue().rstrip().endswith("INFO loaded gb=4")
    assert [(line.logger, line.fields) for line in sent] == [(f"{PROJECT}.engine", '{"gb": 4}')]
