"""What the first signal lets be finished, and what the second does not wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from phicorpus.driver.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    installed = Signals()
    installed.install()
    yield installed
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_interrupts_and_sigterm_ends_with_its_code(signals: Signals) -> None:
    assert signals
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_sigterm_ends_with_143(signals: Signals) -> None:
    assert signals
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


def test_what_is_shielded_is_finished_first(signals: Signals) -> None:
    finished: list[str] = []

    def publish() -> None:
        with signals.shielded():
            signal.raise_signal(signal.SIGTERM)
            finished.append("unit")
        finished.append("not reached")

    with pytest.raises(SystemExit):
        publish()
    assert finished == ["unit"]


def test_a_second_signal_waits_for_nothing() -> None:
    script = """
        import os, signal, time
        from phicorpus.driver.signals import Signals
        signals = Signals()
        signals.install()
        with signals.shielded():
            os.kill(os.getpid(), signal.SIGINT)
            print("shielded", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    """
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stdout) == (143, "shielded\n")
