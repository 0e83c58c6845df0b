"""Phi-4-multimodal's log-mel features, in NumPy.

Mono of 16 or 8 kHz; frames of 25 ms every 10 ms; 80 mel bands from 0 to 7690 Hz; 12.5 tokens per
second. The constants are those of the published model's preprocessor, which has a way of its own
for 8 kHz: half as many samples per frame, and nothing in the bands above 4 kHz.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
RATES_HZ = (8_000, RATE_HZ)
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SIZE = 512
NUM_MELS = 80
MAX_HZ = 7690
PREEMPHASIS = 0.97
SAMPLE_SCALE = 32768
FRAMES_PER_ROW = 8
BLOCK_ROWS = 500
"""Longer audio, of more than 40 s, is encoded in blocks of so many rows."""


def num_frames(num_samples: int, rate_hz: int = RATE_HZ) -> int:
    """Count the feature frames of a clip; a clip shorter than a frame is padded to one.

    Example:
        >>> num_frames(16_000), num_frames(8_000, 8_000)
        (98, 98)
    """
    frame, hop = (size * rate_hz // RATE_HZ for size in (FRAME_SAMPLES, HOP_SAMPLES))
    return (max(num_samples, frame) - frame) // hop + 1


def num_rows(num_samples: int, rate_hz: int = RATE_HZ) -> int:
    """Count the feature rows, which are prompt tokens, of a clip: 12.5 per second.

    Example:
        >>> num_rows(30 * RATE_HZ)
        375
    """
    return rows_of_frames(num_frames(num_samples, rate_hz))


def rows_of_frames(num_frames: int) -> int:
    """Count the feature rows of so many frames; the last row may have fewer than 8."""
    return -(-num_frames // FRAMES_PER_ROW)


def log_mel(samples: npt.NDArray[np.float32], rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """Compute log-mel features, frame by frame as the original does.

    Args:
        samples: shape (n,), float32 in [-1, 1]; padded with zeros to one frame if shorter.
        rate_hz: Of the samples: 16,000 or 8,000.

    Returns:
        Features, shape (num_frames(n, rate_hz), 80): ln of the mel power, at least 0.
    """
    frame, hop, size = (n * rate_hz // RATE_HZ for n in (FRAME_SAMPLES, HOP_SAMPLES, FFT_SIZE))
    if samples.size < frame:
        samples = np.pad(samples, (0, frame - samples.size))
    windows = np.lib.stride_tricks.sliding_window_view(samples, frame)[::hop]
    # Pre-emphasis inside each frame: its first sample has itself as predecessor.
    before = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    frames = (windows - np.float32(PREEMPHASIS) * before) * np.float32(SAMPLE_SCALE)
    # The symmetric Hamming window is float64, and so is the transform.
    spectrum = np.fft.rfft(np.hamming(frame) * frames, n=size, axis=1)
    magnitude = np.abs(spectrum.astype(np.complex64))
    if rate_hz != RATE_HZ:  # the bin at 4 kHz is silent too
        magnitude = np.pad(magnitude[:, :-1], ((0, 0), (0, (FFT_SIZE - size) // 2 + 1)))
    power = magnitude**2 @ _mel_filters()
    return np.log(np.maximum(power, np.float32(1.0)))


@lru_cache(maxsize=1)
def _mel_filters() -> npt.NDArray[np.float32]:
    """Make the triangular filters, shape (257, 80): equal width in mels, bins 1 to 245 only.

    mel(f) = 1127 ln(1 + f / 700); the bin at the upper edge and the constant bin carry no weight.
    """
    first_bin, end_bin = 1, round(MAX_HZ * FFT_SIZE / RATE_HZ)
    bins = np.arange(FFT_SIZE // 2 + 1)
    bin_mels = 1127.0 * np.log1p(bins * RATE_HZ / (FFT_SIZE * 700.0))
    edges = np.linspace(0.0, 1127.0 * np.log1p(MAX_HZ / 700.0), NUM_MELS + 2)
    half_width = edges[-1] / (NUM_MELS + 1)
    weights = 1.0 - np.abs(bin_mels[:, None] - edges[None, 1:-1]) / half_width
    weights = np.maximum(weights, 0.0)
    weights[:first_bin] = 0.0
    weights[end_bin:] = 0.0
    return weights.astype(np.float32)
