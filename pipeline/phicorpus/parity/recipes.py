"""Images and sounds of the golden packs, in integer arithmetic: the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phicorpus.parity.hash_weights import bits


def image(width: int, height: int, seed: int, cell: int) -> npt.NDArray[np.uint8]:
    """Draw coloured cells, gradients, dark strokes like text, and fine noise.

    Args:
        width: Pixels.
        height: Pixels.
        seed: Of colours, strokes and noise.
        cell: Side of a cell, pixels.

    Returns:
        RGB, shape (height, width, 3).
    """
    y = np.arange(height, dtype=np.int64)[:, None]
    x = np.arange(width, dtype=np.int64)[None, :]
    colour = _hash("image.cells", seed, (-(-height // cell), -(-width // cell), 3), drop=56)
    noise = _hash("image.noise", seed, (height, width), drop=60)
    ink = _hash("image.ink", seed, (-(-height // 5), -(-width // 3)), drop=63)
    gradient = (x * 255 // width * 2 + y * 255 // height)[..., None]
    pixels = ((colour[y // cell, x // cell] * 5 + gradient) >> 3) + noise[..., None] - 8
    is_stroke = (ink[y // 5, x // 3] == 1) & ((y // 5) % 3 == 0)
    return np.clip(np.where(is_stroke[..., None], pixels >> 2, pixels), 0, 255).astype(np.uint8)


def audio(
    num_samples: int,
    seed: int,
    pitches: tuple[int, int],
    chirp: int,
    envelope: int,
    gap: Sequence[int],
) -> npt.NDArray[np.int16]:
    """Play a triangle tone and a triangle chirp under an envelope, with noise and one silent gap.

    Args:
        num_samples: At 16 kHz.
        seed: Of the noise.
        pitches: Phase steps per sample of tone and chirp, in 1/65536 of a period.
        chirp: How fast the second pitch rises.
        envelope: Phase step of the loudness.
        gap: First silent sample, and the first after the silence.

    Returns:
        shape (num_samples,).
    """
    index = np.arange(num_samples, dtype=np.int64)
    tone = _triangle((index * pitches[0]) & 65535) * 3
    sweep = _triangle((index * pitches[1] + ((index * index * chirp) >> 16)) & 65535) * 2
    level = np.abs(((index * envelope) & 65535) - 32768)
    noise = _hash("audio.noise", seed, (num_samples,), drop=48) - 32768
    wave = (((tone + sweep) * level) >> 17) + (noise >> 5)
    wave[gap[0] : gap[1]] = 0
    return np.clip(wave, -32768, 32767).astype(np.int16)


def _triangle(phase: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.abs(((phase + 16384) & 65535) - 32768) - 16384


def _hash(name: str, seed: int, shape: tuple[int, ...], *, drop: int) -> npt.NDArray[np.int64]:
    """Hash to integers of 64 - `drop` bits."""
    values = bits(name, seed, 0, int(np.prod(shape))) >> np.uint64(drop)
    return values.astype(np.int64).reshape(shape)
