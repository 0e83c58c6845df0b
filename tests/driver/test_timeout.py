"""The watch over a driver: what it asks, until when, and how it ends a run that waits in vain."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_START = """
import threading
from phicorpus.driver.timeout import DriverWatch
from phicorpus.errors import WorkersLost

def wait_in_vain():
    while True:
        threading.Event().wait(0.02)

watch = DriverWatch(0.2, on_hang=print)
"""


def driven(script: str) -> str:
    """Run a driver in a process of its own, since its main thread gets interrupted."""
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _START + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_driver_to_which_nothing_comes_is_ended_with_what_it_waited_for() -> None:
    said = driven("""
        watch.waits_for("Ray to start")
        try:
            with watch.watching():
                wait_in_vain()
        except WorkersLost as error:
            print(error)
    """)

    assert "nothing came from any worker for 0.2 s" in said
    assert said.endswith("while the driver waited for Ray to start\n")


def test_no_worker_is_asked_after_the_workers_have_ended() -> None:
    said = driven("""
        asked, may_answer = threading.Event(), threading.Event()
        questions = []

        def signs():
            questions.append("asked")
            asked.set()
            may_answer.wait(60)
            return 1

        try:
            with watch.watching():
                with watch.asking(signs):
                    asked.wait(60)
                    threading.Timer(0.05, may_answer.set).start()
                print("answered", may_answer.is_set(), len(questions))
                wait_in_vain()
        except WorkersLost:
            print("ended", len(questions))
    """)

    assert said == "answered True 1\nended 1\n"
