"""CUDA graphs of decoding steps: the forward pass up to the scores, replayed without its launches.

A graph serves one number of sequences and one width of the page table: both are rounded up. What
changes from step to step is copied to tensors that stay where they are.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

MAX_GRAPHS = 64  # the least recently used goes: each holds memory
MIN_PAGES = 4
TOLERANCE = 0.02  # of the largest score: replayed kernels may sum in another order
_TINY = 1e-30

log = logging.getLogger(__name__)


class Graph(Protocol):
    """Kernels that are recorded once and launched together."""

    def capture(self, forward: Callable[[], None]) -> None:
        """Record the kernels of a call; their results are not computed by it."""
        ...

    def replay(self) -> None:
        """Run the kernels again, on the same memory."""
        ...


class CudaGraphs:
    """Makes graphs of CUDA's, on the current device, that share memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self) -> Graph:
        """Make an empty graph."""
        return _CudaGraph(self._pool)


class _CudaGraph:
    def __init__(self, pool: Any) -> None:  # noqa: ANN401 torch's handle has no public type
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool

    def capture(self, forward: Callable[[], None]) -> None:
        """Record the kernels of a call."""
        with torch.cuda.graph(self._graph, self._pool, capture_error_mode="thread_local"):
            forward()

    def replay(self) -> None:
        """Run the kernels again."""
        self._graph.replay()


@dataclass(frozen=True, slots=True)
class _Captured:
    numbers: torch.Tensor
    graph: Graph


class DecodeGraphs:
    """Runs decoding steps by graphs, each captured when its size first comes.

    The step in which it is captured is computed without it, and its first replay has to give the
    same scores: else one warning is logged, and no graph is used any more. Where a sequence's own
    scores overflow, there is nothing to compare, and a later step of that size is captured.

    Args:
        forward: Computes the scores, shape (rows, vocabulary), of a step's numbers, shape
            (rows, columns), int64. Only its kernels are recorded.
        new_graph: Makes an empty graph.
        device: Where the decoder is.
        max_rows: Sequences in a step.
        padding: Numbers of a row that only pads a step, before its pages.

    Attributes:
        why_off: Why no graph is used any more; None while they are.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        new_graph: Callable[[], Graph],
        *,
        device: torch.device,
        max_rows: int,
        padding: tuple[int, ...],
    ) -> None:
        self.why_off: str | None = None
        self._forward = forward
        self._new_graph = new_graph
        self._device = device
        self._max_rows = max_rows
        self._padding = padding
        self._captured: OrderedDict[tuple[int, ...], _Captured] = OrderedDict()
        self._scores: torch.Tensor | None = None  # of every graph

    def scores(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor | None:
        """Compute a step's scores, shape (rows, vocabulary); valid until the next step.

        Args:
            numbers: One row for each sequence, shape (rows, columns): those of `padding`, then its
                pages.

        Returns:
            None where no graph is used: the step is not computed.
        """
        if self.why_off is not None or len(numbers) > self._max_rows:
            return None
        padded = self._padded(numbers)
        captured = self._captured.get(padded.shape)
        if captured is None:
            return self._capture(padded)[: len(numbers)]
        self._captured.move_to_end(tuple(padded.shape))
        captured.numbers.copy_(padded, non_blocking=True)
        captured.graph.replay()
        return self._out(len(numbers))

    def _padded(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        rows, columns = numbers.shape
        fixed = len(self._padding)
        width = fixed + max(MIN_PAGES, 1 << (columns - fixed - 1).bit_length())
        padded = np.zeros((min(self._max_rows, bucket(rows)), width), np.int64)
        padded[rows:, :fixed] = self._padding
        padded[:rows, :columns] = numbers
        tensor = torch.from_numpy(padded)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _capture(self, padded: torch.Tensor) -> torch.Tensor:
        """Compute a step without a graph, and capture one for the steps of its size."""
        numbers = padded.to(self._device)
        scores = self._forward(numbers)
        largest = scores.abs().amax().item()
        if not math.isfinite(largest):
            return scores
        if self._scores is None:
            self._scores = scores.new_empty(self._max_rows, scores.shape[1])
        graph = self._new_graph()
        try:
            graph.capture(lambda: _write(self._forward(numbers), self._out(len(numbers))))
            graph.replay()
        except RuntimeError as error:
            self._turn_off(f"{tuple(padded.shape)}: {error}")
            return scores
        deviation = (self._out(len(numbers)) - scores).abs().amax().item() / max(largest, _TINY)
        if deviation <= TOLERANCE:
            self._captured[tuple(padded.shape)] = _Captured(numbers, graph)
            if len(self._captured) > MAX_GRAPHS:
                self._captured.popitem(last=False)
        else:  # nan too
            self._turn_off(f"{tuple(padded.shape)}: a replay is off by {deviation:.3g}")
        return scores

    def _turn_off(self, why: str) -> None:
        self.why_off = why
        self._captured.clear()
        log.warning("no CUDA graphs: decoding is slower", extra={"reason": why})

    def _out(self, rows: int) -> torch.Tensor:
        assert self._scores is not None  # noqa: S101 set by the first capture
        return self._scores[:rows]


def bucket(rows: int) -> int:
    """Round a number of sequences up to one that graphs are captured for.

    Example:
        >>> [bucket(rows) for rows in (1, 2, 3, 8, 9, 64, 65, 256)]
        [1, 2, 4, 8, 16, 64, 96, 256]
    """
    if rows <= 8:  # noqa: PLR2004 powers of two, then steps of 8, then of 32
        return 1 << (rows - 1).bit_length()
    step = 8 if rows <= 64 else 32  # noqa: PLR2004
    return -(-rows // step) * step


def _write(scores: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(scores)
