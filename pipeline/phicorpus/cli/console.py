"""Standard output and standard error: consoles, and single lines beside the answer."""

from __future__ import annotations

import logging
import os

from rich.console import Console

from phicorpus.cli.logs import logs_json
from phicorpus.errors import PhicorpusError
from phicorpus.storage.redact import redacted

_COLUMNS_OF_A_PIPE = 160
"""Wide enough that no install line or reason is cut up in a log; COLUMNS says otherwise."""


def _console(*, stderr: bool) -> Console:
    # Answers, paths and messages have brackets of their own: none of them is markup.
    console = Console(stderr=stderr, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _COLUMNS_OF_A_PIPE
    return console


out = _console(stderr=False)
err = _console(stderr=True)
log = logging.getLogger(__name__)


def print_line(line: str, *, style: str | None = None, **fields: object) -> None:
    """Print a line beside the answer, on standard error; where logs are JSON, as one of them."""
    if logs_json():
        log.info(line, extra=fields)
    else:
        err.print(line, style=style, highlight=False, soft_wrap=True)


def print_error(error: PhicorpusError) -> None:
    """Print why the command ends, in one line."""
    kind, text = type(error).__name__, redacted(str(error))
    if logs_json():
        log.error(text, extra={"error": kind, "exit_code": error.exit_code})
        return
    err.print(kind, style="bold red", end=": ")
    err.print(text, highlight=False, soft_wrap=True)
