"""Whatever a signal or Ray does to a driver: the exit code is the documented one, the run's record
is closed, and a local cluster leaves no process behind.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from phicorpus.config import RunConfig
from tests.builders import a_config, a_corpus

pytestmark = [pytest.mark.slow, pytest.mark.ray]

_ROOT = Path(__file__).parent.parent.parent
_PATIENCE_S = 240.0
Found = psutil.Process | Path | None


@contextmanager
def a_run(config: RunConfig, **script: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A watched driver on a local cluster of its own."""
    job = {"config": config.model_dump(mode="json"), "script": script, "supervised": True}
    command = [sys.executable, "-m", "tests.run_driver", json.dumps(job)]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE) as parent:  # noqa: S603
        try:
            yield parent
        finally:
            parent.kill()


def a_long_job(folder: Path, **cluster: Any) -> RunConfig:
    a_corpus(folder, num_images=8)
    slots = {"cpus_per_replica": 0.25, "num_cpus": 2} | cluster
    return a_config(folder, tasks=["ocr"], cluster=slots)


def until(parent: subprocess.Popen[bytes], look: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        assert parent.poll() is None, parent.communicate()
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


def started_by(parent: subprocess.Popen[bytes], name: str) -> psutil.Process | None:
    """A process below the parent whose command line has this name."""
    for process in psutil.Process(parent.pid).children(recursive=True):
        try:
            if any(name in part for part in process.cmdline()[:2]):
                return process
        except psutil.Error:
            continue
    return None


def first_file(folder: Path) -> Path | None:
    return next(folder.glob("output/annotations/*/*/*.parquet"), None)


def ended(parent: subprocess.Popen[bytes]) -> tuple[int, str]:
    below = psutil.Process(parent.pid).children(recursive=True)
    _, said = parent.communicate(timeout=_PATIENCE_S)
    gone, alive = psutil.wait_procs(below, timeout=1)
    assert alive == [], gone
    return parent.returncode, said.decode()


def records(folder: Path) -> list[dict[str, Any]]:
    """The runs of an output as they ended; every run that began is there."""
    began = {path.name for path in folder.glob("output/runs/started/*.json")}
    closed = {path.name: path for path in folder.glob("output/runs/*.json")}
    assert began == set(closed)
    return [json.loads(path.read_text()) for path in closed.values()]


def test_a_signal_while_ray_starts_ends_with_its_code_and_a_closed_record(tmp_path: Path) -> None:
    with a_run(a_long_job(tmp_path), delay_s=60) as parent:
        until(parent, lambda: started_by(parent, "gcs_server"))
        parent.send_signal(signal.SIGTERM)
        code, _ = ended(parent)

    assert code == 143
    assert [record["status"] for record in records(tmp_path)] == ["interrupted"]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_rows_are_published_ends_with_its_code(
    tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    with a_run(a_long_job(tmp_path), delay_s=0.2, delay_spread_s=0.5) as parent:
        until(parent, lambda: first_file(tmp_path))
        parent.send_signal(number)
        code, _ = ended(parent)

    assert code == expected
    assert [record["status"] for record in records(tmp_path)] == ["interrupted"]


@pytest.mark.parametrize(
    "name",
    [
        "ray::DashboardAgent",  # what a killer of processes that use up memory takes first
        pytest.param("raylet", marks=pytest.mark.chaos),
        pytest.param("gcs_server", marks=pytest.mark.chaos),
    ],
)
def test_a_run_that_loses_ray_s_own_processes_ends_with_6(tmp_path: Path, name: str) -> None:
    with a_run(a_long_job(tmp_path), delay_s=600) as parent:
        until(parent, lambda: started_by(parent, "Replica"))
        until(parent, lambda: started_by(parent, name)).kill()
        code, said = ended(parent)

    assert code == 6, said
    assert "WorkersLost" in said
    assert [record["status"] for record in records(tmp_path)] == ["failed"]


def test_a_driver_that_is_killed_is_closed_by_its_parent(tmp_path: Path) -> None:
    with a_run(a_long_job(tmp_path), delay_s=600) as parent:
        until(parent, lambda: started_by(parent, "Replica"))
        until(parent, lambda: started_by(parent, "python")).kill()
        code, said = ended(parent)

    assert code == 6
    assert "SIGKILL" in said
    assert [record["status"] for record in records(tmp_path)] == ["failed"]


def test_a_driver_to_which_nothing_comes_says_what_it_waited_for_and_ends_with_6(
    tmp_path: Path,
) -> None:
    config = a_long_job(tmp_path, driver_timeout_s=4)

    with a_run(config, delay_s=600) as parent:
        code, said = ended(parent)

    assert code == 6
    assert "cluster.driver_timeout_s" in said
    assert "while the driver waited for " in said
    assert [record["status"] for record in records(tmp_path)] == ["failed"]


def test_a_second_signal_waits_for_nothing(tmp_path: Path) -> None:
    with a_run(a_long_job(tmp_path), delay_s=600) as parent:
        until(parent, lambda: started_by(parent, "ray::"))
        parent.send_signal(signal.SIGTERM)
        parent.send_signal(signal.SIGTERM)
        code, _ = ended(parent)

    assert code == 143
    assert [record["status"] for record in records(tmp_path)] == ["interrupted"]


_LEAVES_AN_ORPHAN = """
import os, subprocess, sys, time
import psutil
from phicorpus.cli import main
def run():
    start = "import subprocess; print(subprocess.Popen(['true']).pid, flush=True)"
    orphan = int(subprocess.run([sys.executable, "-c", start], capture_output=True).stdout)
    while psutil.pid_exists(orphan):  # a zombie, until its new parent asks for it
        time.sleep(0.02)
    print("reaped", os.getppid() != 1)
main(run, supervised=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans go to init elsewhere")
def test_processes_that_outlive_their_parents_do_not_stay_as_zombies() -> None:
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _LEAVES_AN_ORPHAN],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, "reaped True\n")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(20))
def test_sigterm_at_any_moment_ends_with_143_and_a_closed_record(tmp_path: Path, seed: int) -> None:
    after_s = random.Random(seed).uniform(1.0, 25.0)  # noqa: S311 - not for secrets

    with a_run(a_long_job(tmp_path), delay_s=0.5, delay_spread_s=30) as parent:
        time.sleep(after_s)
        parent.send_signal(signal.SIGTERM)
        code, _ = ended(parent)

    assert code == 143
    assert all(record["status"] == "interrupted" for record in records(tmp_path))
