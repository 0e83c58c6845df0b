"""Measure the driver's commit path: replies in, published Parquet files out, rows per second.

python -m benchmarks.commit --machine "2 cores, 24 GiB, no GPU"
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from phicorpus.commands.annotate import publication
from phicorpus.commands.prepare import prepare
from phicorpus.manifest.units import Unit
from phicorpus.output.write import RunPublisher
from phicorpus.schemas import REPLY
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from tests.builders import a_backend, a_config, a_reply, write_manifest

_ROOT = Path(__file__).parent.parent
_ROWS_AT_ONCE = 16
_ANSWER = "A slide with a bar chart of sales by quarter, and three lines of text. " * 6


def measure(num_assets: int) -> dict[str, float]:
    """Commit so many images with two tasks each, in units of 64, on a local disk with fsync."""
    with tempfile.TemporaryDirectory(dir=_ROOT / "benchmarks") as name:
        folder = Path(name)
        rows = [{"uri": f"/{i}.png", "asset_id": f"asset-{i}"} for i in range(num_assets)]
        write_manifest(folder / "manifest.parquet", rows)
        settings = {"tasks": ["ocr", "caption"], "units": {"image": 64}}
        job = prepare(a_config(folder, **settings), a_backend())
        commit = Commit(RunPublisher(job.plan.output, publication(job, "benchmark")), assemble)
        tables = [table for unit in job.plan.units() for table in _replies(commit, unit)]
        begun = time.monotonic()
        for table in tables:
            commit.add(table)
        elapsed_s = time.monotonic() - begun
        committed = commit.tally.num_committed
    return {
        "num_rows": committed,
        "num_units": commit.tally.num_units,
        "elapsed_s": round(elapsed_s, 2),
        "rows_per_s": round(committed / elapsed_s),
    }


def _replies(commit: Commit, unit: Unit) -> list[pa.Table]:
    commit.expect(unit)
    rows = [
        a_reply(unit_id=unit.unit_id, asset_id=asset_id, task=task, text=_ANSWER)
        for asset_id, tasks in unit.asked.items()
        for task in tasks
    ]
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    return [pa.Table.from_pylist(rows[s : s + _ROWS_AT_ONCE], schema=REPLY) for s in starts]


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=6400)
    parser.add_argument("--machine", default="")
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks/results/commit.json")
    options = parser.parse_args()
    record = {"machine": options.machine, "target_rows_per_s": 2000, **measure(options.assets)}
    sys.stdout.write(json.dumps(record) + "\n")
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
