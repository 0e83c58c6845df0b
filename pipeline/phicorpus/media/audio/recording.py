"""Decode recordings with PyAV into mono windows of 16 or 8 kHz, cut where nobody speaks.

In this process, without a sandbox: FFmpeg reads from memory, through the one demuxer that the
content's signature names, so that no playlist or script in the data can open another file.
Memory is bounded by the window, not by the recording.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from phicorpus.config import AudioConfig
from phicorpus.errors import LimitExceeded
from phicorpus.media.audio import vad
from phicorpus.media.audio.pcm import CANCELLED, CORRUPT, OVERLAPPING, UNDECLARED, Recording
from phicorpus.media.audio.vad import FRAME_SAMPLES, RATE_HZ
from phicorpus.media.segment import Bytes, Samples, Segment

_ORDER = ("truncated", CORRUPT, UNDECLARED, CANCELLED, OVERLAPPING)
_DETECT_FRAMES = 512  # per call of the detector: 16.4 s


def segments(content: Bytes, config: AudioConfig, declared: str | None = None) -> Iterator[Segment]:
    """Decode a recording, or the sound of a video, into windows that cover it exactly.

    Windows do not overlap and leave no gap. With `audio.vad` each ends in the longest pause
    between `audio.min_window_s` and `audio.max_window_s`, and one in which nobody speaks carries
    no samples and the skip reason "no_speech"; without it each is `audio.max_window_s` long. The
    last may be shorter. With `audio.channels: each` every channel has windows of its own; they come
    in the order in which they end.

    Times count from the start of the container: where a picture begins before the sound, from the
    picture. Of several tracks, as a film has one per language, the one that is marked as the
    default is decoded, else the first.

    Args:
        content: The file.
        config: Windows and limits.
        declared: The media type that a name or a manifest promises: what has no signature where it
            begins is looked for, as frames of MPEG audio behind junk.

    Yields:
        Segments with `samples`, shape (n,), float32 mono in [-1, 1] of `rate_hz`: 8,000 for
        a recording of 8 kHz and else 16,000; `start_s` and `end_s`; and `channel` where channels
        are apart. Only the last knows `count`. Flags: on a channel's last, "truncated" (the file
        announces more than it holds); on those in which it is so, "corrupt_audio" (packets that
        could not be decoded), "opposite_phase" (the mix would cancel the channels; the loudest
        was taken), "overlapping_audio" (by its time stamps sound is there twice; once was left
        out); on a file's first, "undeclared_audio" (it holds more than it announces; all is read);
        on all, "first_of_N_tracks" or "default_of_N_tracks" (the others are not given).

    Raises:
        DecodeError: not a recording, no sound in it, or nothing of it can be decoded.
        UnsupportedMedia: the content is of another type.
        LimitExceeded: longer than `audio.max_hours`, or more samples in all channels than
            `audio.max_samples`, as found, not as announced; or too many channels.
    """
    mixed = config.channels == "mix"
    mixed = config.channels == "mix"
    cutters: list[_Cutter] = []
    with Recording(content, declared, mixed=mixed, max_samples=config.max_samples) as recording:
        if recording.lasts_longer(config.max_hours * 3600):
            raise LimitExceeded(f"audio.max_hours: longer than the limit of {config.max_hours:g}")
        indices = itertools.count()
        for block in recording.blocks():
            if not cutters:
                numbers = [None] if mixed else range(1, len(block) + 1)
                rate_hz = recording.rate_hz
                flags = _tracks(recording)
                cutters = [_Cutter(config, number, indices, rate_hz, flags) for number in numbers]
            _check_hours(cutters[0].end_s + block.shape[1] / recording.rate_hz, config)
            noted = recording.take_flags()
            for cutter, samples in zip(cutters, block, strict=True):
                yield from cutter.add(samples, noted)
        noted = recording.take_flags() | ({"truncated"} if recording.truncated else set())
        for cutter in cutters:
            yield from cutter.finish(noted, last=cutter is cutters[-1])


def _tracks(recording: Recording) -> tuple[str, ...]:
    if recording.num_tracks == 1:
        return ()
    which = "first" if recording.track == 1 else "default"
    return (f"{which}_of_{recording.num_tracks}_tracks",)


def _check_hours(length_s: float, config: AudioConfig) -> None:
    if length_s > config.max_hours * 3600:
        raise LimitExceeded(
            f"audio.max_hours: {length_s / 3600:.2f} hours, limit {config.max_hours:g}"
        )


@dataclass(slots=True)
class _Cutter:
    """Collects samples, and gives windows as soon as one can be cut.

    Every cut but the recording's end lies on a frame of the detector, so that the frames of one
    window are those of the recording.
    """

    config: AudioConfig
    channel: int | None
    indices: Iterator[int]
    rate_hz: int
    flags: tuple[str, ...]
    detector: vad.SpeechDetector = field(default_factory=vad.SpeechDetector)
    doubler: vad.Doubler = field(default_factory=vad.Doubler)
    waiting: list[Samples] = field(default_factory=list)
    num_waiting: int = 0
    samples: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    probabilities: vad.Probabilities = field(default_factory=lambda: np.zeros(0, np.float32))
    start: int = 0
    notes: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    @property
    def end_s(self) -> float:
        return (self.start + self.samples.size + self.num_waiting) / self.rate_hz

    @property
    def _frame(self) -> int:
        """Samples of one frame of the detector."""
        return FRAME_SAMPLES * self.rate_hz // RATE_HZ

    def add(self, block: Samples, noted: Iterable[str]) -> Iterator[Segment]:
        """Take the recording's next samples; give the windows that are now complete.

        `noted`: flags of the window that they lie in.
        """
        self._note(noted)
        self.waiting.append(block)
        self.num_waiting += block.size
        if self.num_waiting >= _DETECT_FRAMES * self._frame:
            yield from self._full_windows()

    def finish(self, noted: Iterable[str], *, last: bool) -> Iterator[Segment]:
        """Yield the rest; what is left at the very end is a window, whatever its length.

        `last`: no other channel has windows after it.
        """
        yield from self._full_windows()
        if self.config.vad:
            rest = self.samples[self.probabilities.size * self._frame :]
            padded = np.pad(rest, (0, -rest.size % self._frame))
            self._score(padded)
        self._note(noted)
        yield self._window(self.samples.size, last=last)

    def _note(self, noted: Iterable[str]) -> None:
        place = self.start + self.samples.size + self.num_waiting
        self.notes.extend((place, flag) for flag in noted)

    def _full_windows(self) -> Iterator[Segment]:
        self.samples = np.concatenate([self.samples, *self.waiting])
        self.waiting, self.num_waiting = [], 0
        if self.config.vad:
            unscored = self.samples[self.probabilities.size * self._frame :]
            self._score(unscored[: unscored.size // self._frame * self._frame])
        while self.samples.size > self._longest:  # so that something is left for the last window
            yield self._window(self._cut())

    def _score(self, samples: Samples) -> None:
        if self.rate_hz != RATE_HZ:
            samples = self.doubler.doubled(samples)
        scores = self.detector.probabilities(samples)
        self.probabilities = np.concatenate([self.probabilities, scores])

    @property
    def _longest(self) -> int:
        longest = max(int(self.config.max_window_s * self.rate_hz), 1)
        whole_frames = max(longest // self._frame, 1) * self._frame
        return whole_frames if self.config.vad else longest

    def _cut(self) -> int:
        if not self.config.vad:
            return self._longest
        frames = vad.cut(
            self.probabilities,
            earliest=math.ceil(self.config.min_window_s * self.rate_hz / self._frame),
            latest=self._longest // self._frame,
            threshold=self.config.speech_threshold,
        )
        return frames * self._frame

    def _window(self, size: int, *, last: bool = False) -> Segment:
        end = self.start + size
        noted = {flag for place, flag in self.notes if last or place < end}
        self.notes = [note for note in self.notes if not last and note[0] >= end]
        frames = math.ceil(size / self._frame)
        spoken = not self.config.vad or bool(
            (self.probabilities[:frames] > self.config.speech_threshold).any()
        )
        index = next(self.indices)
        window = Segment(
            index=index,
            count=index + 1 if last else None,
            kind="window",
            channel=self.channel,
            samples=self.samples[:size].copy() if spoken else None,
            rate_hz=self.rate_hz,
            start_s=self.start / self.rate_hz,
            end_s=(self.start + size) / self.rate_hz,
            flags=(*self.flags, *sorted(noted, key=_ORDER.index)),
            skip_reason=None if spoken else "no_speech",
        )
        self.samples, self.probabilities = self.samples[size:], self.probabilities[frames:]
        self.start += size
        return window
