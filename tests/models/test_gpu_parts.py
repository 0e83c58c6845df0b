"""The parts of `benchmarks.gpu`: what becomes of one is nothing to the others."""

import json
from pathlib import Path

from benchmarks.gpu.__main__ import Part, parts, run_all

GOOD = Part(("this",), 60)
BAD = Part(("json.tool", "/nowhere"), 60)
ENDLESS = Part(("timeit", "-n1", "import time; time.sleep(600)"), 0.5)


def test_a_part_that_fails_or_hangs_takes_no_other_with_it(tmp_path: Path) -> None:
    found = run_all({"bad": BAD, "endless": ENDLESS, "good": GOOD}, tmp_path, 300)

    statuses = {name: part["exit_status"] for name, part in found.items()}
    assert statuses == {"bad": 2, "endless": None, "good": 0}
    summary = json.loads((tmp_path / "parts.json").read_text("utf-8"))
    assert summary["parts"] == found
    assert summary["gpu"]
    assert "Zen" in (tmp_path / "good.log").read_text("utf-8")


def test_what_has_ended_well_on_this_hardware_is_not_run_again(tmp_path: Path) -> None:
    run_all({"a": GOOD, "b": BAD}, tmp_path, 300)
    (tmp_path / "a.log").unlink()

    run_all({"a": BAD, "b": GOOD}, tmp_path, 300)

    assert not (tmp_path / "a.log").exists()
    assert "Zen" in (tmp_path / "b.log").read_text("utf-8")


def test_no_part_is_begun_without_time_for_it(tmp_path: Path) -> None:
    assert run_all({"a": GOOD}, tmp_path, budget_s=1.0) == {}


def test_a_rehearsal_has_the_parts_of_the_real_thing(tmp_path: Path) -> None:
    real, rehearsed = (parts(tmp_path, rehearse=small, work=None) for small in (False, True))

    assert list(real) == list(rehearsed)
