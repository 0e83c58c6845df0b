"""How full the flow keeps an engine, simulated: rows that decode, by the calls and rows of a call.

A call brings the rows of one batch, and the next one begins when its slowest answer is done; the
engine decodes so many rows at once, one token of each per step. Answers are drawn as long as those
of `benchmarks.workload`. No model and no Ray.

    python -m benchmarks.feeding
"""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Iterator

import numpy as np

from benchmarks.workload import WORKS, Work

_NUM_ROWS = 20_000
_LONG = 768


def mean_rows(lengths: list[int], *, calls: int, rows: int, max_requests: int) -> float:
    """Return how many rows decode on average, until no new call begins.

    Args:
        lengths: Steps of each row, in the order in which they come.
        calls: Batches that are open at once.
        rows: Of a batch.
        max_requests: Rows that decode at once.
    """
    batches = deque(lengths[at : at + rows] for at in range(0, len(lengths), rows))
    waiting: deque[tuple[int, int]] = deque()
    running: list[tuple[int, int]] = []
    left: dict[int, int] = {}
    now = busy = 0
    numbers = iter(range(len(batches)))
    while True:
        while batches and len(left) < calls:
            number, batch = next(numbers), batches.popleft()
            left[number] = len(batch)
            waiting.extend((length, number) for length in batch)
        if not batches:
            return busy / max(1, now)
        while waiting and len(running) < max_requests:
            length, number = waiting.popleft()
            heapq.heappush(running, (now + length, number))
        then, number = heapq.heappop(running)
        busy += (then - now) * (len(running) + 1)
        now = then
        left[number] -= 1
        if not left[number]:
            del left[number]


def draws(work: Work) -> list[int]:
    """Draw the lengths of a work's answers."""
    generator = np.random.default_rng(0)
    drawn = generator.lognormal(np.log(work.answer), work.spread, _NUM_ROWS)
    return [max(2, int(min(work.longest, length))) for length in drawn]


def works() -> Iterator[tuple[str, list[int]]]:
    """Yield works by name, those of one length and of two mixed."""
    for work in WORKS:
        yield work.name, draws(work)
    short, long = draws(WORKS[-1]), [_LONG] * _NUM_ROWS
    order = np.random.default_rng(1).permutation(_NUM_ROWS)
    yield "short, each 8th of 768", [long[i] if i % 8 == 0 else short[i] for i in order]


def main() -> None:
    """Print one table."""
    kept = [("4 x 16", 4, 16, 64), ("4 x 16", 4, 16, 256), ("64 x 8", 64, 8, 256)]
    kept += [("128 x 4", 128, 4, 256), ("16 x 4", 16, 4, 32)]
    heads = [f"{name} of {most}" for name, _, _, most in kept]
    sys.stdout.write(f"{'rows that decode, mean':24}" + "".join(f"{h:>16}" for h in heads) + "\n")
    for name, lengths in works():
        means = (mean_rows(lengths, calls=c, rows=r, max_requests=m) for _, c, r, m in kept)
        sys.stdout.write(f"{name:24}" + "".join(f"{mean:16.1f}" for mean in means) + "\n")


if __name__ == "__main__":
    main()
