"""Turn decoded frames into samples of one rate: float, mixed or by channel, resampled by soxr."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import av.error
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from phicorpus.errors import DecodeError, LimitExceeded
from phicorpus.media.audio.clock import Placed
from phicorpus.media.audio.mix import Mixer
from phicorpus.media.segment import Samples

BROKEN: Final = (
    *(av.error.FFmpegError, ValueError, IndexError, OSError),
    *(MemoryError, OverflowError, RuntimeError),
)
"""What FFmpeg's bindings raise at damaged data. IndexError: a damaged table of streams."""

_STEREO = 2
_MAX_CHANNELS = 16  # one by one, each with a detector and windows of its own
_SURROUND_GAIN = 0.5  # swresample adds a 5.1 mix up to 3.1 times full scale in float
_MIN_RATE_HZ, _MAX_RATE_HZ = 2000, 1_000_000  # outside lie damaged headers


class Converter:
    """Turns frames of one sample format, layout and rate into one rate, mixed or by channel."""

    def __init__(self, first: AudioFrame, to_hz: int, *, mixed: bool) -> None:
        self._kind = _kind(first)
        self._rate_hz = first.sample_rate
        if not _MIN_RATE_HZ <= self._rate_hz <= _MAX_RATE_HZ:
            raise DecodeError(f"a sample rate of {self._rate_hz} Hz")
        # swresample only changes the sample format, and folds surround down: its own stereo to
        # mono is 3 dB too loud in float, and its resampler is duller than soxr's.
        self._num_inputs = first.layout.nb_channels
        self.num_channels = 1 if mixed else self._num_inputs
        if self.num_channels > _MAX_CHANNELS:
            raise LimitExceeded(
                f"audio.channels: each, of {self.num_channels} channels, limit {_MAX_CHANNELS}"
            )
        surround = mixed and self._num_inputs > _STEREO
        surround = surround and " channels" not in first.layout.name  # nobody says which is which
        self._folded = self._to_float("fltp", "mono") if surround else None
        # PyAV (18.1) crashes on eight planes and more
        self._format = self._to_float("flt" if self._num_inputs > _STEREO else "fltp", None)
        self._mixer = Mixer(self._rate_hz) if mixed and self._num_inputs > 1 else None
        self._resampler = (
            None
            if self._rate_hz == to_hz
            else soxr.ResampleStream(
                self._rate_hz, to_hz, self.num_channels, dtype="float32", quality="HQ"
            )
        )

    def fits(self, frame: AudioFrame) -> bool:
        """Check whether a frame is of the kind that this converter is made for."""
        return _kind(frame) == self._kind

    def convert(self, placed: Placed) -> Iterator[Samples]:
        """Convert a frame, with the silence before it."""
        num_missing = round(placed.silence_s * self._rate_hz)
        while num_missing > 0:
            silence = np.zeros((self.num_channels, min(num_missing, self._rate_hz)), np.float32)
            if self._mixer is not None:
                yield self._resampled(self._mixer.end())
            num_missing -= silence.shape[1]
            yield self._resampled(silence)
        num_heard = round(placed.overlap_s * self._rate_hz)
        frame = placed.frame
        channels = self._floats(self._format, frame, self._num_inputs)[:, num_heard:]
        if self._mixer is None:
            yield self._resampled(channels)
            return
        if self._folded is None:
            mix = channels.mean(axis=0, dtype=np.float32)
        else:
            mix = np.float32(_SURROUND_GAIN) * self._floats(self._folded, frame, 1)[0, num_heard:]
        yield self._resampled(self._mixer.add(channels, mix))

    def end(self) -> Iterator[Samples]:
        """Return what is left when no frame of this kind follows."""
        if self._mixer is not None:
            yield self._resampled(self._mixer.end())
        if self._resampler is not None:
            nothing = np.zeros((0, self.num_channels), np.float32)
            yield _clipped(self._resampler.resample_chunk(nothing, last=True).T)

    def take_cancelled(self) -> bool:
        """Check whether channels cancelled each other since the last call."""
        if self._mixer is None:
            return False
        cancelled, self._mixer.cancelled = self._mixer.cancelled, False
        return cancelled

    def _to_float(self, sample_format: str, layout: str | None) -> AudioResampler:
        try:
            return AudioResampler(format=sample_format, layout=layout, rate=self._rate_hz)
        except BROKEN as error:
            raise DecodeError(f"cannot convert {self._kind}: {error}") from error

    def _floats(self, converter: AudioResampler, frame: AudioFrame, num_planes: int) -> Samples:
        try:
            converted = converter.resample(frame)
        except BROKEN as error:
            raise DecodeError(f"cannot convert {_kind(frame)}: {error}") from error
        parts = [planes.to_ndarray().astype(np.float32, copy=False) for planes in converted]
        parts = [
            part if len(part) == num_planes else part.reshape(-1, num_planes).T for part in parts
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if parts else np.zeros((num_planes, 0), np.float32)

    def _resampled(self, samples: Samples) -> Samples:
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        if self._resampler is not None and samples.size:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples.T)).T
        return _clipped(samples)


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _clipped(samples: Samples) -> Samples:
    return np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
