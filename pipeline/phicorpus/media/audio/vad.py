"""Find speech with Silero VAD, and cut a recording into windows where nobody speaks.

Model: silero_vad_16k.onnx beside this file is `silero_vad_16k_sequence.onnx` of silero-vad 6.2.3
(MIT, https://github.com/snakers4/silero-vad), unchanged. It runs on the CPU with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from phicorpus.media.segment import Samples
from phicorpus.telemetry import turn_off_telemetry

turn_off_telemetry()  # before onnxruntime starts, which looks only then
import onnxruntime  # noqa: E402

onnxruntime.disable_telemetry_events()

RATE_HZ: Final = 16_000
FRAME_SAMPLES: Final = 512
"""One probability per 32 ms: the only frame length the model knows at 16 kHz."""

# The model is deaf at first: of 1139 short recordings it missed the seven shortest words ("L",
# "Monday": 0.22 to 0.47). After 3 s of silence it gives those 0.84 to 0.97, and beeps up to 0.32.
_WARM_UP_FRAMES = 94
_CONTEXT_SAMPLES = 64
_STATE_SHAPE = (1, 1, 128)
_DOUBLING_TAPS = 32
_MODEL_PATH = Path(__file__).with_name("silero_vad_16k.onnx")

Probabilities = npt.NDArray[np.float32]
Run = Callable[[Sequence[str], dict[str, npt.NDArray[np.float32]]], Sequence[Probabilities]]


class SpeechDetector:
    """Give each 32 ms of one recording its probability of speech, block by block.

    The state runs on from block to block, so any cutting into blocks gives the same answer.
    """

    def __init__(self) -> None:
        self._run = _model()
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._h = np.zeros(_STATE_SHAPE, np.float32)
        self._c = np.zeros(_STATE_SHAPE, np.float32)
        self.probabilities(np.zeros(_WARM_UP_FRAMES * FRAME_SAMPLES, np.float32))

    def probabilities(self, samples: Samples) -> Probabilities:
        """Score the recording's next samples.

        Args:
            samples: shape (k * 512,), float32 mono 16 kHz; pad the recording's end with zeros.

        Returns:
            shape (k,), float32 in [0, 1].
        """
        num_frames = samples.size // FRAME_SAMPLES
        if not num_frames:
            return np.zeros(0, np.float32)
        past = np.concatenate([self._context, samples])
        frames = np.lib.stride_tricks.sliding_window_view(past, _CONTEXT_SAMPLES + FRAME_SAMPLES)
        probabilities, self._h, self._c = self._run(
            ["speech_probs", "hn", "cn"],
            {
                "input": np.ascontiguousarray(frames[::FRAME_SAMPLES]),
                "h": self._h,
                "c": self._c,
            },
        )
        self._context = past[-_CONTEXT_SAMPLES:]
        return probabilities.reshape(-1)


class Doubler:
    """Turn 8 kHz into the 16 kHz that the detector knows, block by block.

    A half-band filter over the last samples: what is between two of them comes 2 ms late, which no
    frame of 32 ms minds, and any cutting into blocks gives the same answer.
    """

    def __init__(self) -> None:
        places = np.arange(_DOUBLING_TAPS) - (_DOUBLING_TAPS - 1) / 2
        taps = np.sinc(places) * np.kaiser(_DOUBLING_TAPS, 6.0)
        self._taps = (taps / taps.sum()).astype(np.float32)
        self._past = np.zeros(_DOUBLING_TAPS - 1, np.float32)

    def doubled(self, samples: Samples) -> Samples:
        """Return twice as many samples, shape (2 n,), for the recording's next (n,)."""
        if not samples.size:
            return samples
        past = np.concatenate([self._past, samples])
        output = np.empty(2 * samples.size, np.float32)
        output[::2] = past[_DOUBLING_TAPS // 2 - 1 : _DOUBLING_TAPS // 2 - 1 + samples.size]
        output[1::2] = np.convolve(past, self._taps, mode="valid")
        self._past = past[-(_DOUBLING_TAPS - 1) :]
        return output


def cut(probabilities: Probabilities, *, earliest: int, latest: int, threshold: float) -> int:
    """Choose the frame at which to end a window: the middle of the longest pause.

    Args:
        probabilities: shape (n,), one per frame from the window's start, n >= latest.
        earliest: The shortest window, in frames.
        latest: The longest window, in frames.
        threshold: A frame above it is speech.

    Returns:
        A frame number in [earliest, latest]: the middle of the longest run of frames without
        speech between them, the later of two equally long; without such a run, the frame with the
        least probability.

    Example:
        >>> speech = np.array([1, 1, 1, 0, 0, 0, 1, 0, 1], np.float32)
        >>> cut(speech, earliest=2, latest=9, threshold=0.5)
        4
    """
    span = probabilities[earliest:latest]
    if not span.size:
        return latest
    pauses = np.flatnonzero(np.diff(np.concatenate([[False], span <= threshold, [False]])))
    if not pauses.size:
        return earliest + int(span.argmin())
    starts, ends = pauses[::2], pauses[1::2]
    lengths = ends - starts
    longest = lengths.size - 1 - int(lengths[::-1].argmax())
    return earliest + int(starts[longest] + ends[longest]) // 2


@cache
def _model() -> Run:
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        _MODEL_PATH, sess_options=options, providers=["CPUExecutionProvider"]
    )
    return session.run  # pyright: ignore[reportReturnType] - its annotations are wider
