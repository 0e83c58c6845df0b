"""The main job from Python: what `phicorpus annotate` does, for schedulers that import.

Run it as `python jobs/annotate.py jobs/annotate.yaml output=s3://bucket/annotations`. Its exit
codes are those of `phicorpus annotate` but for 3: the caller says how many errors are too many.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from phicorpus.cli import main
from phicorpus.cli.console import report_json
from phicorpus.commands.annotate import RunReport, annotate
from phicorpus.config import load_config


def run(config_path: Path, overrides: Sequence[str] = ()) -> RunReport:
    """Annotate what the config's manifest names and its output does not hold yet.

    Raises:
        PhicorpusError: its `exit_code` says what kind; nothing that was published is lost.
    """
    return annotate(load_config(config_path, overrides))


def script(config_path: str, *overrides: str) -> None:
    """Run, and print the report as JSON."""
    sys.stdout.write(report_json(run(Path(config_path), overrides)) + "\n")


if __name__ == "__main__":
    main(lambda: script(*sys.argv[1:]), supervised=True)
