"""A backfill runs each date once, a few at a time, and reports each date's exit code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from phicorpus.config import load_config
from phicorpus.errors import ConfigError

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "jobs"


def _load() -> ModuleType:
    """Load the script by its path: jobs/ is a folder of scripts and no package."""
    spec = importlib.util.spec_from_file_location("backfill_script", FOLDER / "backfill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks the types of its fields up
    spec.loader.exec_module(module)
    return module


SCRIPT = _load()


def a_backfill(**settings: object) -> Any:
    values: dict[str, object] = {
        "job": Path("jobs/annotate.yaml"),
        "manifest": "s3://b/date={date:%Y-%m-%d}/",
        "output": "s3://b/out/{date}",
        "first": "2026-02-27",
        "last": "2026-03-02",
    }
    return SCRIPT.Backfill.model_validate(values | settings)


def test_every_date_is_run_once_with_its_manifest_and_output() -> None:
    started: list[str] = []

    def start(arguments: Sequence[str]) -> int:
        started.append(" ".join(arguments))
        return 0

    ended = SCRIPT.run(a_backfill(), start)

    assert [one.day for one in ended] == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert sum("manifest=s3://b/date=2026-03-01/" in line for line in started) == 1
    assert sum("output=s3://b/out/2026-03-01" in line for line in started) == 1


def test_no_more_runs_go_on_at_once_than_the_limit() -> None:
    at_once, most = 0, 0
    lock, pair = threading.Lock(), threading.Barrier(2)

    def start(_: Sequence[str]) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        pair.wait(timeout=60)
        with lock:
            at_once -= 1
        pair.wait(timeout=60)
        return 0

    SCRIPT.run(a_backfill(max_runs_at_once=2), start)

    assert most == 2


def test_a_date_that_fails_does_not_keep_the_others_from_running() -> None:
    ended = SCRIPT.run(
        a_backfill(), lambda arguments: 3 if "2026-02-28" in " ".join(arguments) else 0
    )

    assert SCRIPT.Ended("2026-02-28", 3) in ended
    assert [one.exit_code for one in ended] == [0, 3, 0, 0]


def test_a_date_that_a_signal_ended_did_not_end_well() -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    assert SCRIPT.wait_for(killed) == 137
    assert SCRIPT.wait_for([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.parametrize("text", [None, "job: [", "job: a\nlast: 2026-13-45", "nothing: here"])
def test_a_wrong_backfill_ends_with_2_and_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "backfill.yaml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SystemExit) as ended:
        SCRIPT.script(str(path))

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"ConfigError: {path}: ")


def test_the_command_is_one_that_the_command_line_takes(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("nothing: here")
    backfill = a_backfill(job=tmp_path / "job.yaml")

    ended = subprocess.run(  # noqa: S603 - our own program
        SCRIPT.command(backfill, backfill.first), capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "unknown key 'nothing'" in " ".join(ended.stderr.split())


def test_the_shipped_example_is_right() -> None:
    backfill = SCRIPT.load_backfill(FOLDER / "backfill.yaml")

    assert load_config(FOLDER / backfill.job.name).tasks


@pytest.mark.parametrize("settings", [{"max_runs_at_once": 2}, {"reprocess": "all"}])
def test_dates_that_share_an_output_are_not_run_at_once_nor_answered_anew(
    settings: dict[str, object],
) -> None:
    alone = {"output": "s3://b/out", "max_runs_at_once": 1}
    assert a_backfill(**alone).max_runs_at_once == 1

    with pytest.raises(ValidationError, match=r"shared by all dates.*\.\.\./\{date\}"):
        a_backfill(**alone | settings)


@pytest.mark.parametrize(
    "text", ["first: 2026-01-01", "- a", "{job: a, manifest: m, output: o, first: x, last: y}"]
)
def test_a_wrong_backfill_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "backfill.yaml").write_text(text)

    with pytest.raises(ConfigError):
        SCRIPT.load_backfill(tmp_path / "backfill.yaml")
