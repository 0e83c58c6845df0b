"""Phi-4-multimodal's log-mel features, in NumPy.

16 kHz mono; frames of 25 ms every 10 ms; 80 mel bands from 0 to 7690 Hz; 12.5 tokens per second.
The constants are those of the published model's preprocessor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SIZE = 512
NUM_MELS = 80
MAX_HZ = 7690
PREEMPHASIS = 0.97
SAMPLE_SCALE = 32768
FRAMES_PER_ROW = 8


def num_frames(num_samples: int) -> int:
    """Count the feature frames of a clip; a clip shorter than a frame is padded to one.

    Example:
        >>> num_frames(16_000)
        98
    """
    return (max(num_samples, FRAME_SAMPLES) - FRAME_SAMPLES) // HOP_SAMPLES + 1


def num_rows(num_samples: int) -> int:
    """Count the feature rows, which are prompt tokens, of a clip: 12.5 per second.

    Example:
        >>> num_rows(30 * RATE_HZ)
        375
    """
    return -(-num_frames(num_samples) // FRAMES_PER_ROW)


def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute log-mel features, frame by frame as the original does.

    Args:
        samples: shape (n,), float32 in [-1, 1], 16 kHz; padded with zeros to one frame if shorter.

    Returns:
        Features, shape (num_frames(n), 80), natural logarithm of the mel power, at least 0.
    """
    if samples.size < FRAME_SAMPLES:
        samples = np.pad(samples, (0, FRAME_SAMPLES - samples.size))
    windows = np.lib.stride_tricks.sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES]
    # Pre-emphasis inside each frame: its first sample has itself as predecessor.
    before = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    frames = (windows - np.float32(PREEMPHASIS) * before) * np.float32(SAMPLE_SCALE)
    # The symmetric Hamming window is float64, and so is the transform.
    spectrum = np.fft.rfft(np.hamming(FRAME_SAMPLES) * frames, n=FFT_SIZE, axis=1)
    magnitude = np.abs(spectrum.astype(np.complex64))
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
