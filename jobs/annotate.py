"""The main job from Python: what `phicorpus annotate` does, for schedulers that run scripts.

Run it as `python jobs/annotate.py jobs/annotate.yaml output=s3://bucket/annotations`. It prints the
run's report as JSON. Its exit codes are those of `phicorpus annotate` but for 3: read `error_ratio`
in the report, and decide how many errors are too many.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import phicorpus
import phicorpus.cli


def job() -> None:
    """Annotate what the config's manifest names and its output does not hold yet."""
    config = phicorpus.load_config(Path(sys.argv[1]), sys.argv[2:])
    report = phicorpus.annotate(config)
    sys.stdout.write(json.dumps(report.fields()) + "\n")


if __name__ == "__main__":
    phicorpus.cli.main(job, supervised=True)
