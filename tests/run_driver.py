"""A driver to be killed: runs a scripted job in a process of its own."""

from __future__ import annotations

import json
import sys

from phicorpus.cli import main
from phicorpus.commands.annotate import annotate
from phicorpus.config import parse_config
from tests.builders import a_backend
from tests.chaos.filesystem import register


def run() -> None:
    register()
    job = json.loads(sys.argv[1])
    report = annotate(parse_config(job["config"]), backend=a_backend(**job["script"]))
    sys.stdout.write(report.status)


if __name__ == "__main__":
    main(run, supervised=json.loads(sys.argv[1]).get("supervised", False))
