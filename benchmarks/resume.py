"""Measure resume: seconds to the first pending unit and peak memory, by the manifest's rows.

A manifest of images, 99 % of whose units are committed; the job is prepared as `annotate` does,
up to the first unit that it would run. Each size runs in a process of its own.

    python -m benchmarks.resume --machine "2 cores, 24 GiB, no GPU"
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.commands.prepare import prepare
from phicorpus.schemas.paths import FileKey
from phicorpus.storage.store import open_store
from tests.builders import a_backend, a_config

_ROOT = Path(__file__).parent.parent
_SIZES = (10_000, 100_000, 1_000_000)
_BATCH = 50_000


def write_manifest(path: Path, num_rows: int) -> None:
    """Write a manifest of image URIs, in batches."""
    schema = pa.schema([("uri", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, _BATCH):
            stop = min(start + _BATCH, num_rows)
            uris = [f"s3://bucket/2024/images/{i:09d}.png" for i in range(start, stop)]
            writer.write_table(pa.table({"uri": uris}, schema=schema))


def settings(folder: Path) -> dict[str, object]:
    """Give the job: two tasks, units of the default size."""
    return {"tasks": ["ocr", "caption"], "units": {"image": 64}, "output": str(folder / "output")}


def commit_most(folder: Path) -> int:
    """Create the files of 99 of every 100 units; a plan looks at names only."""
    job = prepare(a_config(folder, **settings(folder)), a_backend())
    output, committed = folder / "output", 0
    for number, unit in enumerate(job.plan.units()):
        if number % 100 == 99:  # noqa: PLR2004 - one of a hundred is left
            continue
        for table in unit.todo:
            _touch(output / FileKey(table, unit.unit_id).path())
        committed += 1
    return committed


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def measure(folder: Path) -> dict[str, float]:
    """Prepare the job and take its first pending unit."""
    begun = time.monotonic()
    job = prepare(a_config(folder, **settings(folder)), a_backend())
    unit = next(job.plan.units())
    elapsed_s = time.monotonic() - begun
    return {
        "first_unit_s": round(elapsed_s, 2),
        "peak_rss_mib": peak_rss_mib(),
        "num_pending_units": job.pending.num_pending_units,
        "num_rows_of_unit": unit.rows.num_rows,
    }


def peak_rss_mib() -> float:
    """Give this process's peak memory; getrusage's would be the parent's, if that is larger."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


def main() -> None:
    """Measure every size, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--machine", default="")
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks/results/resume.json")
    options = parser.parse_args()
    if options.measure:
        assert open_store(str(options.measure))  # noqa: S101 - fsspec's import is not measured
        sys.stdout.write(json.dumps(measure(options.measure)))
        return
    results: list[dict[str, object]] = []
    for num_rows in _SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_manifest(folder / "manifest.parquet", num_rows)
            committed = commit_most(folder)
            command = [sys.executable, "-m", "benchmarks.resume", "--measure", name]
            said = subprocess.run(command, capture_output=True, check=True, cwd=_ROOT).stdout  # noqa: S603
            results.append({"num_rows": num_rows, "committed_units": committed, **json.loads(said)})
            sys.stdout.write(f"{results[-1]}\n")
            sys.stdout.flush()
    record = {"machine": options.machine, "results": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
