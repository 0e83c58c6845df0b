"""jobs/annotate.py, run as a scheduler runs it: as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

JOB = Path(__file__).parents[2] / "jobs/annotate.py"


def test_a_wrong_config_ends_the_job_as_it_ends_the_command(tmp_path: Path) -> None:
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(JOB), str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "cannot read config" in ended.stderr
