"""A small parent process, so that a run ends with its documented exit code whatever Ray does.

The parent starts the same command once more, as the driver, and imports nothing of Ray. Signals
reach the driver through it. When the driver ends without having reported an exit code, the parent
closes the run's record, writes what happened, and ends with the code that is documented for it.
Then it ends the processes that the driver left running.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Any, BinaryIO

import psutil

from phicorpus.driver.parent import VARIABLE
from phicorpus.driver.signals import EXIT_CODES, START_OF_SIGNALS
from phicorpus.errors import PhicorpusError, WorkersLost

_GRACE_S = 120.0
"""For a driver that gets a signal: it finishes the unit that it is publishing."""
_POLL_S = 0.2
_LEFTOVERS_S = 5.0
_FINISHED = (0, 3)
"""Exit codes of a job that was done before the signal reached it."""


@dataclass(slots=True)
class _DriverReports:
    """The driver's reports so far; see `phicorpus.driver.parent`."""

    exit_code: int | None = None
    run: Mapping[str, Any] | None = None
    is_recorded: bool = False

    def read(self, pipe: BinaryIO) -> None:
        for line in pipe:
            try:
                message = json.loads(line)
            except ValueError:  # its writer was killed in the middle
                continue
            if "fields" in message:
                self.run, self.is_recorded = message, False
            self.is_recorded = message.get("recorded", self.is_recorded)
            self.exit_code = message.get("exit", self.exit_code)


@dataclass(slots=True)
class _Signals:
    """Passes signals on to the driver; the second one ends it at once.

    Attributes:
        first: The first signal, and its time.
    """

    driver: subprocess.Popen[bytes]
    first: tuple[int, float] | None = None
    before: dict[int, Any] = field(default_factory=dict[int, Any])

    def install(self) -> None:
        for number in EXIT_CODES:
            self.before[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number, time.monotonic()
            self.driver.send_signal(number)
        else:
            self.driver.kill()

    @property
    def is_overdue(self) -> bool:
        return self.first is not None and time.monotonic() - self.first[1] > _GRACE_S


def supervise() -> int:
    """Run this process's own command line once more as a watched driver, and wait for it.

    Returns:
        The exit code to end with.
    """
    _adopt_orphans()
    reports = _DriverReports()
    with _driver() as (driver, pipe):
        signals = _Signals(driver)
        signals.install()
        listener = threading.Thread(target=reports.read, args=(pipe,), name="driver", daemon=True)
        listener.start()
        code = _wait(driver, signals)
        listener.join(_LEFTOVERS_S)  # a process that it left may hold the pipe open
    try:
        return _settle(reports, code, signals)
    finally:
        _end_leftovers()
        signals.restore()


@contextlib.contextmanager
def _driver() -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """Start the driver, in a process group that a terminal's Ctrl-C does not reach."""
    reports, report = os.pipe()
    watch, life = os.pipe()
    driver = subprocess.Popen(  # noqa: S603 - this very command
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, VARIABLE: f"{report},{watch}"},
        pass_fds=(report, watch),
        process_group=0,
    )
    os.close(report)
    os.close(watch)
    with os.fdopen(reports, "rb") as pipe:
        try:
            yield driver, pipe
        finally:
            os.close(life)


def _wait(driver: subprocess.Popen[bytes], signals: _Signals) -> int:
    while True:
        try:
            return driver.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            _reap_orphans(driver)
            if signals.is_overdue:
                driver.kill()


def _settle(reports: _DriverReports, code: int, signals: _Signals) -> int:
    """Choose the exit code, and close what the driver left open."""
    if signals.first is not None and reports.exit_code not in _FINISHED:
        _close_record(reports, "interrupted")
        return EXIT_CODES[signal.Signals(signals.first[0])]
    if reports.exit_code is not None:
        return reports.exit_code
    if -code in EXIT_CODES or code - START_OF_SIGNALS in EXIT_CODES:
        _close_record(reports, "interrupted")  # whoever signals a process group reaches it too
        number = -code if code < 0 else code - START_OF_SIGNALS
        return EXIT_CODES[signal.Signals(number)]
    _close_record(reports, "failed")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    sys.stderr.write(
        f"WorkersLost: the driver's process was ended by {how}: Ray's processes on this machine or "
        "the cluster's head were lost, or memory was used up. What is published is right; the same "
        "command goes on.\n"
    )
    return WorkersLost.exit_code


def _close_record(reports: _DriverReports, status: str) -> None:
    """Write the end of the run, as the driver would have."""
    if reports.run is None or reports.is_recorded:
        return
    from phicorpus.output.runs import write_end  # noqa: PLC0415 - a driver that ends well needs no store
    from phicorpus.storage.store import open_store  # noqa: PLC0415

    fields = reports.run["fields"]
    now = datetime.now(UTC)
    elapsed_s = (now - datetime.fromisoformat(fields["started_at"])).total_seconds()
    ended = {"status": status, "ended_at": now.isoformat(), "elapsed_s": round(elapsed_s, 3)}
    try:
        write_end(open_store(reports.run["output"], reports.run["options"]), {**fields, **ended})
    except PhicorpusError as error:
        sys.stderr.write(f"the run's record could not be closed: {error}\n")


def _adopt_orphans() -> None:
    """Become the parent of the processes that the driver's leave behind, where the system can."""
    if sys.platform == "linux":
        pr_set_child_subreaper = 36  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def _reap_orphans(driver: subprocess.Popen[bytes]) -> None:
    """Forget processes that ended after their parents did: they would be zombies until the end."""
    if sys.platform == "linux":
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_ALL, 0, peek)) is not None and ended.si_pid != driver.pid:
            os.waitpid(ended.si_pid, 0)


def _end_leftovers() -> None:
    """End the processes of a local cluster whose driver is gone."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=_LEFTOVERS_S)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_LEFTOVERS_S)
