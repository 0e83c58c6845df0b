"""Everything that is to be run on a GPU, part by part, so that minutes on one are not lost.

Each part is a process with a time limit of its own: one that fails, hangs or leaves the device in
a bad state takes no other with it. What a part found is on disk when it ends; `parts.json`, which
names the hardware, is written anew after each. A part that has ended well is not run again.

    python -m benchmarks.gpu --minutes 9          # again and again, until nothing is left
    python -m benchmarks.gpu --rehearse           # the same with small sizes, on the CPU
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.engine import WORK_NAMES
from benchmarks.gpu.full_size import SCALES
from benchmarks.workload import processor

RESULTS = Path("benchmarks/results/gpu")
SUMMARY = "parts.json"
_LEAST_S = 60.0  # a part is not begun with less
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
    "--format=csv,noheader",
)


@dataclass(frozen=True, slots=True)
class Part:
    """A process to run.

    Attributes:
        module: Of Python, and its arguments.
        limit_s: It is killed then.
    """

    module: Sequence[str]
    limit_s: float


def parts(output: Path, *, rehearse: bool, work: Path | None) -> dict[str, Part]:
    """List the parts, the cheapest answers first."""
    to = ("--output", str(output))
    small = ("--rehearse", "--requests", "8") if rehearse else ()
    engine = ("benchmarks.gpu.engine", *to, *small)
    scale = ("--scale", "tiny") if rehearse else ()
    where = ("--work", str(work)) if work else ()
    models = {
        f"full size of {name}": Part(
            ("benchmarks.gpu.full_size", "--model", name, *to, *scale, *where), 540
        )
        for name in SCALES["full"].configs
    }
    works = {f"engine, {name}": Part((*engine, "--work", name), 420) for name in WORK_NAMES}
    tests = {
        f"tests of {name}": Part(
            ("pytest", "-v", "-m", "not gpu" if rehearse else "gpu", f"tests/{name}/test_gpu.py"),
            240,
        )
        for name in ("engine", "models")
    }
    if rehearse:  # without a GPU none of these runs: another stands in
        stand_in = Part(("pytest", "-v", "tests/engine/test_stopping.py"), 240)
        tests = dict.fromkeys(tests, stand_in)
    profile = {"profile": Part((*engine, "--profile"), 240)}
    on = ("--scale", "0.0001") if rehearse else ("--device", "cuda", "--workers", "4")
    lessons = ("tools.tiny_phi", str((work or output) / "tiny-run"), str(output / "tiny"), *on)
    training = {"training of the tiny model": Part(lessons, 540)}
    return {**tests, **works, **profile, **models, **training}


def run(part: Part, log: Path, limit_s: float) -> dict[str, Any]:
    """Run a part to its end or its limit, and everything that it started; its output is in `log`.

    Returns:
        Exit status, None where it was killed, and seconds.
    """
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - one of the parts above
            [sys.executable, "-m", *part.module],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None
        try:
            status = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {"exit_status": status, "seconds": round(time.monotonic() - started, 1)}


def run_all(chosen: Mapping[str, Part], output: Path, budget_s: float) -> dict[str, Any]:
    """Run what has not ended well yet, as long as the budget lasts; keep the summary up to date.

    Args:
        chosen: By name.
        output: For logs and the summary.
        budget_s: For all of them.

    Returns:
        What became of each part, in this run or an earlier one; left out are those not begun.
    """
    output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + budget_s
    summary = output / SUMMARY
    before = json.loads(summary.read_text("utf-8")) if summary.exists() else {}
    report: dict[str, Any] = {**hardware(), "parts": {}}
    if {key: before.get(key) for key in hardware()} == hardware():
        report["parts"] = before["parts"]
    for name, part in chosen.items():
        left_s = ends - time.monotonic()
        if report["parts"].get(name, {}).get("exit_status") == 0 or left_s < min(
            _LEAST_S, part.limit_s
        ):
            continue
        log = output / f"{name.replace(', ', '.').replace(' ', '_')}.log"
        report["parts"][name] = run(part, log, min(part.limit_s, left_s))
        summary.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report["parts"]


def hardware() -> dict[str, str]:
    """Name what the parts run on."""
    versions = {"torch": torch.__version__, "processor": processor()}
    if not torch.cuda.is_available():
        return {"gpu": "none", **versions}
    asked = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, check=False)  # noqa: S603
    return {"gpu": asked.stdout.strip() or torch.cuda.get_device_name(), **versions}


def main() -> int:
    """Run the parts; 0 if all of them have ended well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts together")
    parser.add_argument("--only", default="", help="parts whose name has this in it")
    parser.add_argument("--work", type=Path, default=None, help="folder for checkpoints, 11 GiB")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a part is not left on the device
    known = parts(options.output, rehearse=options.rehearse, work=options.work)
    chosen = {name: part for name, part in known.items() if options.only in name}
    found = run_all(chosen, options.output, options.minutes * 60)
    for name in chosen:
        print(f"{name}: {found.get(name, 'not begun')}")  # noqa: T201 - a script's answer
    return 0 if all(found.get(name, {}).get("exit_status") == 0 for name in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
