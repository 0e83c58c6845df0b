"""The parts of `benchmarks.gpu`: what becomes of one is nothing to the others, and all is kept."""

import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu.__main__ import run_all
from benchmarks.gpu.parts import Part, parts
from benchmarks.gpu.summary import MOST_CHARACTERS, summarise

ROOT = Path(__file__).parents[2]
GOOD = Part(("this",), 60)
BAD = Part(("json.tool", "/nowhere"), 60)
ENDLESS = Part(("timeit", "-n1", "import time; time.sleep(600)"), 0.5)


def test_a_part_that_fails_or_hangs_takes_no_other_with_it(tmp_path: Path) -> None:
    chosen = {"bad": BAD, "endless": ENDLESS, "good": GOOD}

    ended = run_all(chosen, tmp_path / "results", tmp_path, 300)

    statuses = {name: how and how["exit_status"] for name, how in ended.items()}
    assert statuses == {"bad": 2, "endless": None, "good": 0}
    assert "Zen" in (tmp_path / "results/good.log").read_text("utf-8")
    summary = (tmp_path / "summary.txt").read_text("utf-8")
    assert "bad: FAILED, exit status 2" in summary
    assert "endless: KILLED" in summary
    assert "good: ok" in summary


def test_the_archive_holds_every_log_and_how_each_part_ended(tmp_path: Path) -> None:
    ended = run_all({"bad": BAD, "good one": GOOD}, tmp_path / "results", tmp_path, 300)

    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert {"results/bad.log", "results/good_one.log"} <= set(packed.getnames())
        kept = packed.extractfile("results/parts.json")
        assert kept is not None
        found = json.load(kept)
    assert found["parts"] == ended
    assert found["gpu"]


def test_what_has_ended_well_on_this_hardware_is_not_run_again(tmp_path: Path) -> None:
    results = tmp_path / "results"
    run_all({"a": GOOD, "b": BAD}, results, tmp_path, 300)
    (results / "a.log").unlink()

    run_all({"a": BAD, "b": GOOD}, results, tmp_path, 300)

    assert not (results / "a.log").exists()
    assert "Zen" in (results / "b.log").read_text("utf-8")


def test_no_part_is_begun_without_time_for_it_and_the_summary_says_so(tmp_path: Path) -> None:
    ended = run_all({"a": GOOD}, tmp_path / "results", tmp_path, budget_s=1.0)

    assert ended == {"a": None}
    assert "a: NOT BEGUN" in (tmp_path / "summary.txt").read_text("utf-8")


def test_a_rehearsal_has_the_parts_of_the_real_thing(tmp_path: Path) -> None:
    real, rehearsed = (parts(tmp_path, rehearse=small, work=tmp_path) for small in (False, True))

    assert list(real) == list(rehearsed)


def test_the_summary_is_short_however_much_was_found(tmp_path: Path) -> None:
    for name in ("steps", "profile"):
        (tmp_path / f"{name}.txt").write_text(f"{name} of it\n" * 2000, "utf-8")
    (tmp_path / "steps.log").write_text("x" * 100_000, "utf-8")
    ended = {"steps": {"exit_status": 1, "seconds": 3.0}, "profile": None}

    summary = summarise(tmp_path, {"gpu": "none"}, ended)

    assert len(summary) <= MOST_CHARACTERS
    assert "steps: FAILED, exit status 1 after 3 s" in summary
    assert summary.index("profile: NOT BEGUN") < summary.index("steps of it")
    assert "cut here" in summary


def test_the_summary_ends_with_the_log_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "steps.txt").write_text("a table\n", "utf-8")
    (tmp_path / "steps.log").write_text("line\n" * 99 + "RuntimeError: no memory\n", "utf-8")

    summary = summarise(tmp_path, {}, {"steps": {"exit_status": 1, "seconds": 3.0}})

    assert "FAILED, exit status 1 after 3 s: RuntimeError: no memory" in summary
    assert summary.index("a table") < summary.index("--- end of steps.log")
    assert summary.count("line") < 20


def test_an_unknown_part_is_refused_by_name(tmp_path: Path) -> None:
    ended = _run("--only", "nothing", "--output", str(tmp_path))

    assert ended.returncode == 2
    assert "no part begins with 'nothing'; there are: environment, kernels" in ended.stderr


@pytest.mark.slow
def test_a_run_that_is_terminated_leaves_no_part_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--only", "contract"]
    work = ["--work", str(tmp_path), "--output", str(tmp_path)]
    with subprocess.Popen([*command, *work], cwd=ROOT) as process:  # noqa: S603 - our own program
        log = tmp_path / "results/contract.log"
        begun: list[psutil.Process] = []
        while not (begun and log.exists()):
            assert process.poll() is None
            begun = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143

    assert not any(map(_is_alive, begun))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
