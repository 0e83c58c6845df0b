"""Mutate good files of every format, decode them, and count what comes out.

python -m tests.hostile.fuzz [--files 10000] [--jobs 2] [--seed 0] [--output FILE]

Exit code 1 when a file ends in anything but segments or one of the project's own errors, or ends a
process. A finding names its format and seed; `--only PNG:123` decodes that one file again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from phicorpus.config import AudioConfig, DeckConfig, DecodeConfig, ImageConfig
from phicorpus.errors import SegmentError
from phicorpus.media.decode import Undecoded, decode_batch
from tests.hostile.damage import mutated
from tests.hostile.formats import good_files

# Native rendering: LibreOffice takes a second for each file; PPT and ODP go through it all the same
# in the hostile corpus. The pixel limit keeps a file that announces much from being slow.
CONFIG = DecodeConfig(
    images=ImageConfig(max_pixels=4_000_000),
    decks=DeckConfig(render="native", dpi=36, render_timeout_s=20.0),
    audio=AudioConfig(max_hours=0.02, vad=False),
)
_BATCH = 8
_PER_JOB = 64


@dataclass(slots=True)
class Tally:
    """What became of files.

    Attributes:
        outcomes: "ok" or an error's class, and how many files ended so.
        unnamed: Files that ended in anything else: "PNG:12: ValueError: ...".
        slowest_s: The longest batch of eight.
        peak_bytes: The most that one process has held.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    unnamed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_bytes: int = 0

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.unnamed += other.unnamed
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)

    @property
    def num_files(self) -> int:
        return self.outcomes.total() + len(self.unnamed)


def names(num_files: int, seed: int) -> Iterator[str]:
    """Name the files to make: each format in turn."""
    formats = sorted(good_files())
    for number in range(num_files):
        yield f"{formats[number % len(formats)]}:{seed + number // len(formats)}"


def decode_named(chosen: Sequence[str]) -> Tally:
    """Make and decode files, eight at a time as the flow does."""
    tally = Tally()
    for start in range(0, len(chosen), _BATCH):
        started_s = time.monotonic()
        _decode(chosen[start : start + _BATCH], tally)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - started_s)
    tally.peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tally


def _decode(batch: Sequence[str], tally: Tally) -> None:
    contents = [mutated(good_files()[name.partition(":")[0]], name) for name in batch]
    try:
        for outcome in outcomes(contents):
            tally.outcomes[outcome] += 1
    except Exception as error:  # noqa: BLE001 - to find what is not expected
        if len(batch) == 1:
            tally.unnamed.append(f"{batch[0]}: {type(error).__name__}: {error}")
            return
        tally_alone = Tally()
        for name in batch:
            _decode([name], tally_alone)
        tally.add(tally_alone)


def outcomes(contents: Sequence[bytes]) -> list[str]:
    """Decode a batch; for each file "ok", or the class of its first error."""
    found: list[str | None] = [None] * len(contents)
    assets = [Undecoded(content=content) for content in contents]
    for position, segment in decode_batch(assets, CONFIG):
        error = segment if isinstance(segment, SegmentError) else segment.error
        if found[position] in {None, "ok"}:
            found[position] = "ok" if error is None else type(error).__name__
    return [outcome or "nothing" for outcome in found]


def fuzz(chosen: Sequence[str], num_jobs: int) -> Tally:
    """Decode in several processes; a file that ends its process is a finding."""
    good_files()  # once, before the processes are forked
    tally = Tally()
    jobs = [chosen[start : start + _PER_JOB] for start in range(0, len(chosen), _PER_JOB)]
    context = multiprocessing.get_context("fork")
    while jobs:
        with ProcessPoolExecutor(num_jobs, mp_context=context) as pool:
            waiting = [(job, pool.submit(decode_named, job)) for job in jobs]
            jobs = []
            for job, future in waiting:
                try:
                    tally.add(future.result())
                except BrokenProcessPool:
                    jobs.append(job)
                _progress(tally, len(chosen))
        if jobs:  # the first of them, or a neighbour, ended the process: find which, alone
            tally.add(_one_by_one(jobs.pop(0)))
    return tally


def _one_by_one(job: Sequence[str]) -> Tally:
    tally = Tally()
    context = multiprocessing.get_context("fork")
    for name in job:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                tally.add(pool.submit(decode_named, [name]).result())
            except BrokenProcessPool:
                tally.unnamed.append(f"{name}: ended its process")
    return tally


def _progress(tally: Tally, num_files: int) -> None:
    if sys.stderr.isatty() or tally.num_files % 1024 < _PER_JOB:
        sys.stderr.write(f"{tally.num_files} of {num_files}, {len(tally.unnamed)} findings\n")


def _lines(tally: Tally, elapsed_s: float) -> Iterable[str]:
    yield f"{tally.num_files} files in {elapsed_s:.0f} s"
    for outcome, count in tally.outcomes.most_common():
        yield f"  {outcome:20} {count}"
    yield f"slowest batch of {_BATCH}: {tally.slowest_s:.1f} s"
    yield f"largest process: {tally.peak_bytes / 1024**2:.0f} MiB"
    yield f"unnamed: {len(tally.unnamed)}"
    yield from (f"  {finding}" for finding in tally.unnamed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as the command line says; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="such as PNG:123")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    chosen = parser.parse_args(arguments)
    started_s = time.monotonic()
    tally = fuzz(chosen.only or list(names(chosen.files, chosen.seed)), chosen.jobs)
    elapsed_s = time.monotonic() - started_s
    sys.stdout.write("\n".join(_lines(tally, elapsed_s)) + "\n")
    if chosen.output is not None:
        figures = {
            "num_files": tally.num_files,
            "elapsed_s": round(elapsed_s, 1),
            "jobs": chosen.jobs,
            "seed": chosen.seed,
            "outcomes": dict(tally.outcomes.most_common()),
            "unnamed": tally.unnamed,
            "slowest_batch_s": round(tally.slowest_s, 2),
            "peak_bytes": tally.peak_bytes,
        }
        chosen.output.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if tally.unnamed or tally.outcomes["nothing"] else 0


if __name__ == "__main__":
    sys.exit(main())
