"""What is learned from: drawn and said between the steps, or ahead of them by other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Item = TypeVar("Item")
_AHEAD = 4  # items of each process


class _Source(IterableDataset[Item]):
    def __init__(
        self, make: Callable[[np.random.Generator], Iterator[Item]], seed: Sequence[int]
    ) -> None:
        self.make, self.seed = make, seed

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        own = [] if worker is None else [worker.id]
        return self.make(np.random.default_rng([*self.seed, *own]))


def stream(
    make: Callable[[np.random.Generator], Iterator[Item]], seed: Sequence[int], num_workers: int
) -> Iterator[Item]:
    """Yield what `make` yields, of one source of chance here or of one in each of some processes.

    The order follows from the seed and the number of processes, never from which is quicker.

    Args:
        make: Yields without end; can be pickled.
        seed: Of the sources.
        num_workers: Processes; 0: made here, when it is asked for.
    """
    loader = DataLoader(
        _Source(make, seed),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn" if num_workers else None,
        prefetch_factor=_AHEAD if num_workers else None,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _as_it_is(item: Item) -> Item:
    return item


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
