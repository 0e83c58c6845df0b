"""Kill drivers and workers at random while they annotate, until the work is done; then compare.

Run it as `python -m tests.chaos.soak --runs 20 --kills 11`; `make chaos` does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray

from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig
from phicorpus.storage.store import open_store
from tests.builders import (
    a_config,
    a_pdf,
    a_tone,
    an_image,
    write_files,
    write_manifest,
)
from tests.undisturbed import content

_ROOT = Path(__file__).parent.parent.parent
Driver = subprocess.Popen[bytes]

_MAX_STARTS = 50


@dataclass(slots=True)
class Soak:
    """What was survived."""

    num_runs: int = 0
    num_starts: int = 0
    num_clusters_lost: int = 0
    num_segments: int = 0
    kills: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("driver", "worker", "witness"), 0)
    )
    rows_lost: int = 0
    rows_twice: int = 0
    rows_other: int = 0
    files_torn: int = 0
    problems: int = 0

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())

    @property
    def is_right(self) -> bool:
        wrong = (self.rows_lost, self.rows_twice, self.rows_other, self.files_torn, self.problems)
        return not any(wrong)


def a_large_corpus(folder: Path, num_images: int, num_decks: int, num_recordings: int) -> None:
    files = {f"image{i}.png": an_image(f"image {i}") for i in range(num_images)}
    files |= {f"deck{i}.pdf": a_pdf(3 + i % 5) for i in range(num_decks)}
    files |= {f"tone{i}.wav": a_tone(2.0 + i) for i in range(num_recordings)}
    files["broken.png"] = an_image()[:60]
    write_files(folder, files)
    write_manifest(folder / "manifest.parquet", [{"uri": name} for name in files])


def content_hash(output: Path) -> str:
    """Hash the rows of an output, in key order."""
    rows = json.dumps(sorted(map(list, content(output).elements()), key=str))
    return hashlib.sha256(rows.encode()).hexdigest()


def start_driver(config: RunConfig, address: str, script: Mapping[str, Any]) -> Driver:
    settings = config.model_dump(mode="json")
    settings["cluster"]["address"] = address
    job = json.dumps({"config": settings, "script": dict(script)})
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "tests.run_driver", job],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def workers() -> Iterator[tuple[int, str]]:
    """Find this cluster's busy worker processes: those that its raylet started."""
    raylets = {
        pid for pid, parent, name in _processes() if parent == os.getpid() and "raylet" in name
    }
    for pid, parent, name in _processes():
        agent = "Agent" in name  # a node does not outlive its agents: that would be node loss
        if parent in raylets and name.startswith("ray::") and "IDLE" not in name and not agent:
            yield pid, "witness" if "CrashLog" in name else "worker"


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                name = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            except OSError:
                continue
            yield int(entry.name), int(stat.rpartition(")")[2].split()[1]), name


def kill_one(driver: Driver, chance: random.Random, soak: Soak) -> bool:
    """Kill the driver or one of its workers; tell whether there was anybody to kill."""
    if chance.random() < 0.2:
        driver.kill()
        soak.kills["driver"] += 1
        return True
    found = list(workers())
    if not found:
        return False
    pid, kind = chance.choice(found)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    soak.kills[kind] += 1
    return True


class Cluster:
    """A local Ray that is started again when it was lost."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self.address = self._start()

    def again(self) -> None:
        """End what is left of it, and start another."""
        ray.shutdown()
        self.address = self._start()

    def _start(self) -> str:
        patience = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
        context: Any = ray.init(
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _system_config=patience,  # a busy machine is not a dead one
        )
        return context.address_info["gcs_address"]


def disturbed_run(
    config: RunConfig, cluster: Cluster, num_kills: int, chance: random.Random, soak: Soak
) -> None:
    """Run a job to its end, through so many kills; start it again whenever its driver died."""
    script = {"delay_s": 0.02, "delay_spread_s": 0.2}
    before, soak.num_runs = soak.num_kills, soak.num_runs + 1
    for _ in range(_MAX_STARTS):
        soak.num_starts += 1
        with start_driver(config, cluster.address, script) as driver:
            while driver.poll() is None and soak.num_kills - before < num_kills:
                time.sleep(chance.uniform(0.2, 1.6))
                if driver.poll() is None:
                    kill_one(driver, chance, soak)
            _, said = driver.communicate(timeout=600)
        if driver.returncode == 0:
            return
        if driver.returncode != -signal.SIGKILL:
            sys.stdout.write(f"the driver ended with {driver.returncode}: {said[-500:]!r}\n")
            soak.num_clusters_lost += 1
            cluster.again()
    raise RuntimeError(f"not done after {_MAX_STARTS} starts")


def compare(output: Path, undisturbed: Counter[tuple[Any, ...]], soak: Soak) -> None:
    """Count what was lost, what is there twice, what is different."""
    rows = content(output)
    wanted, found = ({row[:3] for row in side} for side in (undisturbed, rows))
    soak.rows_lost += len(wanted - found)
    soak.rows_twice += sum(Counter(row[:3] for row in rows.elements()).values()) - len(found)
    soak.rows_other += len(rows - undisturbed)
    soak.num_segments += len({row[:2] for row in rows})
    verified = verify(open_store(str(output)))
    soak.files_torn += sum(problem.kind == "torn" for problem in verified.problems)
    soak.problems += verified.num_problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=11, help="per run")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default="", help="in plain words, for the record")
    parser.add_argument("--output", type=Path, help="JSON file for the record")
    options = parser.parse_args()
    cluster = Cluster()
    soak, chance, begun = Soak(), random.Random(options.seed), time.monotonic()  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        a_large_corpus(home, num_images=options.images, num_decks=8, num_recordings=4)
        units = {"image": 8, "deck": 2, "audio": 2}
        calm = a_config(home, output=str(home / "calm"), units=units)
        disturbed_run(calm, cluster, 0, chance, Soak())
        undisturbed = content(home / "calm")
        for number in range(options.runs):
            output = home / f"run{number}"
            config = a_config(home, output=str(output), units=units)
            disturbed_run(config, cluster, options.kills, chance, soak)
            compare(output, undisturbed, soak)
            _say(soak, time.monotonic() - begun, options)
    ray.shutdown()
    sys.exit(0 if soak.is_right else 1)


def _say(soak: Soak, elapsed_s: float, options: argparse.Namespace) -> None:
    sys.stdout.write(
        f"{soak.num_runs} runs, {soak.num_starts} starts, {soak.num_kills} kills survived "
        f"({soak.kills}): {soak.rows_lost} rows lost, {soak.rows_twice} twice, "
        f"{soak.rows_other} different, {soak.files_torn} files torn; {elapsed_s:.0f} s\n"
    )
    sys.stdout.flush()
    if options.output:
        record = asdict(soak) | {"num_kills": soak.num_kills, "is_right": soak.is_right}
        record |= {"elapsed_s": round(elapsed_s), "machine": options.machine, "seed": options.seed}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
