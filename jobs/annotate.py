"""The main job from Python: what `phicorpus annotate` does, for schedulers that import.

Run it as `python -m jobs.annotate jobs/annotate.yaml output=s3://bucket/annotations`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import load_config
from pipeline.console import report_json
from pipeline.job import RunReport, annotate


def run(config_path: Path, overrides: Sequence[str] = ()) -> RunReport:
    """Annotate what the config's manifest names and its output does not hold yet.

    Raises:
        PhicorpusError: its `exit_code` says what kind; nothing that was published is lost.
    """
    return annotate(load_config(config_path, overrides))


if __name__ == "__main__":
    sys.stdout.write(report_json(run(Path(sys.argv[1]), sys.argv[2:])) + "\n")
