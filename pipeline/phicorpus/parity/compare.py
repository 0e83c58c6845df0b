"""Comparison of arrays with those of a pack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from phicorpus.parity.hash_weights import uniform


@dataclass(frozen=True, slots=True)
class Check:
    """One field of one case.

    Attributes:
        case: Of the pack.
        field: Of the case; "batch:<name>:<field>" where the case ran beside others.
        difference: The largest, or the number of entries that differ where equality is asked.
        tolerance: The difference that is still right.
    """

    case: str
    field: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True where the difference is within the tolerance; never for NaN."""
        return self.difference <= self.tolerance


def compare(
    case: str, field: str, found: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float
) -> Check:
    """Compare numbers; arrays of different shapes differ infinitely."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    difference = float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")
    return Check(case, field, difference, tolerance)


def mismatches(case: str, field: str, found: npt.ArrayLike, expected: npt.ArrayLike) -> Check:
    """Count entries that are not equal; arrays of different shapes differ infinitely."""
    a, b = np.asarray(found), np.asarray(expected)
    difference = float(np.count_nonzero(a != b)) if a.shape == b.shape else float("inf")
    return Check(case, field, difference, 0.0)


@lru_cache(maxsize=16)
def projection(kind: str, size: int) -> npt.NDArray[np.float64]:
    """Make the pack format's fixed vector: everything counts in its product, nothing cancels."""
    vector: npt.NDArray[Any] = uniform("proj." + kind, size)
    return vector
