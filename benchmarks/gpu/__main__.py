"""Everything that is to be run on a GPU, part by part, so that minutes on one are not lost.

Each part is a process with a time limit and a log of its own: one that fails, hangs or leaves the
device in a bad state takes no other with it. Logs and findings are in one archive, written anew
while the parts run; the summary is printed last. A part that has ended well on this hardware is not
run again while its results are there.

    bash benchmarks/gpu/run.sh --output FOLDER               # installs the carried wheels first
    python -m benchmarks.gpu --rehearse --output FOLDER      # the same with small sizes, on the CPU
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part, parts, slug
from benchmarks.gpu.summary import status_line, summarise

RESULTS, ARCHIVE, SUMMARY = "parts.json", "results.tar.gz", "summary.txt"
_LEAST_S = 20.0  # a part is not begun with less, unless that is its limit
_LOOK_S, _SAVE_EVERY_S = 0.1, 15.0
_TERMINATED = 143  # as a shell says it
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
    "--format=csv,noheader",
)
_stop = threading.Event()


def run(part: Part, log: Path, limit_s: float, save: Callable[[], None]) -> dict[str, Any]:
    """Run a part to its end or its limit, and everything that it started; its output is in `log`.

    Args:
        part: To run.
        log: Written anew.
        limit_s: It is killed then.
        save: Called again and again meanwhile.

    Returns:
        Exit status, None where it was killed, and seconds.
    """
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - one of the parts
            part.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **dict(part.environment)},
        )
        saved, ends = started, started + limit_s
        while process.poll() is None and time.monotonic() < ends and not _stop.wait(_LOOK_S):
            if time.monotonic() > saved + _SAVE_EVERY_S:
                save()
                saved = time.monotonic()
        status = process.poll()
        if status is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"exit_status": status, "seconds": round(time.monotonic() - started, 1)}


def run_all(
    chosen: Mapping[str, Part], results: Path, output: Path, budget_s: float
) -> dict[str, dict[str, Any] | None]:
    """Run what has not ended well yet, as long as the budget lasts, and save after each part.

    Args:
        chosen: Parts by name.
        results: Folder for logs and findings.
        output: Folder for the archive and the summary.
        budget_s: For all of them.

    Returns:
        How each part ended, in this run or an earlier one; None: not begun.
    """
    results.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + budget_s
    own = hardware()
    ended: dict[str, dict[str, Any] | None] = dict.fromkeys(chosen)
    ended |= {name: how for name, how in _earlier(results, own).items() if name in chosen}

    def save() -> None:
        (results / RESULTS).write_text(json.dumps({**own, "parts": ended}, indent=1), "utf-8")
        output.mkdir(parents=True, exist_ok=True)
        (output / SUMMARY).write_text(summarise(results, own, ended) + "\n", "utf-8")
        archive(results, output / ARCHIVE)

    for name, part in chosen.items():
        left_s = 0.0 if _stop.is_set() else ends - time.monotonic()
        if (ended[name] or {}).get("exit_status") == 0 or left_s < min(_LEAST_S, part.limit_s):
            continue
        log = results / f"{slug(name)}.log"
        ended[name] = run(part, log, min(part.limit_s, left_s), save)
        save()
        print(status_line(name, ended[name], log), flush=True)  # noqa: T201 - a script's answer
    save()
    return ended


def archive(folder: Path, path: Path) -> None:
    """Pack a folder; whoever reads finds the archive before or this one, never a part of it."""
    unfinished = path.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w:gz") as packed:
        packed.add(folder, arcname="results")
    unfinished.replace(path)


def hardware() -> dict[str, str]:
    """Name what the parts run on; torch is not asked, so that it may be broken."""
    versions = {name: _version(name) for name in ("torch", "triton", "transformers")}
    try:
        asked = subprocess.run(  # noqa: S603 - a constant
            _NVIDIA_SMI, capture_output=True, text=True, check=False, timeout=30
        )
        gpu = asked.stdout.strip() or "none"
    except (OSError, subprocess.TimeoutExpired) as error:
        gpu = f"none: {error}"
    return {"gpu": gpu, "python": platform.python_version(), **versions}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _earlier(results: Path, own: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Read how parts ended before, on this hardware."""
    file = results / RESULTS
    before = json.loads(file.read_text("utf-8")) if file.exists() else {}
    same = {key: before.get(key) for key in own} == own
    return before["parts"] if same else {}


def main() -> int:
    """Run the parts; 0 if all of them have ended well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--only", default="", help="parts whose name begins so; several by commas")
    parser.add_argument("--work", type=Path, default=Path("/tmp/phicorpus-gpu"))  # noqa: S108
    parser.add_argument("--output", type=Path, required=True, help="for the archive and summary")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: _stop.set())  # a part is not left on the device
    if not options.rehearse:
        os.environ["TRITON_INTERPRET"] = "0"  # whatever the tests make of a machine without a GPU
    results = options.work / "results"
    known = parts(results, rehearse=options.rehearse, work=options.work)
    wanted = tuple(options.only.split(","))
    chosen = {name: part for name, part in known.items() if name.startswith(wanted)}
    if not chosen:
        parser.error(f"no part begins with {options.only!r}; there are: {', '.join(known)}")
    ended = run_all(chosen, results, options.output, options.minutes * 60)
    print(f"\n{(options.output / SUMMARY).read_text('utf-8')}", end="")  # noqa: T201
    failed = [name for name, how in ended.items() if (how or {}).get("exit_status") != 0]
    print(f"not ended well: {', '.join(failed)}" if failed else "all ended well")  # noqa: T201
    return _TERMINATED if _stop.is_set() else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
