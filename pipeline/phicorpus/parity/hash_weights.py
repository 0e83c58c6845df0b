"""Deterministic weights: each value is an integer hash of tensor name, position and seed.

FNV-1a names the tensor, splitmix64 mixes; only exactly rounded operations, so every machine gets
the same bits.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phicorpus.errors import CheckpointError
from phicorpus.models.shards import read_json

GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
CHUNK = 1 << 20

Rule = tuple[str, str, float, float]  # pattern of names, kind, a, b


def fnv1a64(text: str) -> int:
    """Hash a name to 64 bits.

    Example:
        >>> hex(fnv1a64("model.norm.weight"))
        '0xd6d6e5afd11604e4'
    """
    state = FNV_OFFSET
    for byte in text.encode("utf-8"):
        state = ((state ^ byte) * FNV_PRIME) & MASK
    return state


def bits(name: str, seed: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """Make the 64 hash bits of the elements `start` to `stop - 1` of a tensor.

    Example:
        >>> [hex(value) for value in bits("model.norm.weight", 1, 0, 2)]
        ['0x2b9257787a46ce87', '0x944121a1d7785bea']
    """
    origin = np.array([(fnv1a64(name) + seed * GAMMA) & MASK], dtype=np.uint64)
    index = np.arange(start + 1, stop + 1, dtype=np.uint64)
    return _mix(_mix(origin)[0] + index * np.uint64(GAMMA))


def uniform(name: str, count: int, seed: int = 0, start: int = 0) -> npt.NDArray[np.float64]:
    """Make multiples of 2^-23 in [-1, 1), shape (count,); exact in float32."""
    top = bits(name, seed, start, start + count) >> np.uint64(40)
    return top.astype(np.float64) * 2.0**-23 - 1.0


def tensor(
    name: str, shape: Sequence[int], seed: int, rules: Sequence[Rule]
) -> npt.NDArray[np.float32]:
    """Make a tensor by the first rule whose pattern is found in its name.

    Args:
        name: The tensor's name in the checkpoint.
        shape: Its shape.
        seed: Of the pack.
        rules: (pattern, kind, a, b): "fan" is a * sqrt(3 / fan in) * u, "affine" is b + a * u.

    Raises:
        CheckpointError: no rule fits.
    """
    fitting = [rule for rule in rules if re.search(rule[0], name)]
    if not fitting:
        raise CheckpointError(f"weights.json has no rule for {name}")
    _, kind, a, b = fitting[0]
    fan_in = int(np.prod(shape[1:], dtype=np.int64))
    scale, shift = (a * np.sqrt(3.0 / fan_in), 0.0) if kind == "fan" else (a, b)
    count = int(np.prod(shape, dtype=np.int64))
    values = np.empty(count, dtype=np.float32)
    for start in range(0, count, CHUNK):
        part = values[start : start + CHUNK]
        part[:] = shift + scale * uniform(name, part.size, seed, start)
    return values.reshape(tuple(shape))


def tensors(weights_json: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Make a pack's whole checkpoint, in the hub's tensor names.

    Raises:
        CheckpointError: the description is not complete; or, at the end, the tensors are not those
            that the pack was made with.
    """
    pack = read_json(weights_json)
    if lacking := {"tensors", "seed", "rules", "crc32_all"} - set(pack):
        raise CheckpointError(f"{weights_json} lacks {', '.join(sorted(lacking))}")
    crc = 0
    for name, shape in pack["tensors"].items():
        values = tensor(name, shape, pack["seed"], pack["rules"])
        crc = zlib.crc32(values.data, crc)
        yield name, values
    if crc != pack["crc32_all"]:
        raise CheckpointError(f"{weights_json}: CRC-32 is {crc}, expected {pack['crc32_all']}")


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finish splitmix64, elementwise, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
