"""Read any recording as a stream of blocks, with PyAV and soxr: of 16 kHz, or of 8 if it has that.

Telephony is left at 8 kHz: the models have features of their own for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from av.audio.frame import AudioFrame

from phicorpus.errors import DecodeError, LimitExceeded, UnsupportedMedia
from phicorpus.media import sniff
from phicorpus.media.audio.clock import Clock, Placed
from phicorpus.media.audio.convert import Converter
from phicorpus.media.audio.track import Track, tracks
from phicorpus.media.media_types import asset_kind
from phicorpus.media.segment import Bytes, Samples

RATE_HZ: Final = 16_000
NARROW_HZ: Final = 8_000

CORRUPT: Final = "corrupt_audio"
CANCELLED: Final = "opposite_phase"
OVERLAPPING: Final = "overlapping_audio"
UNDECLARED: Final = "undeclared_audio"


class Recording:
    """An open recording; use it in a `with`.

    Attributes:
        rate_hz: Of the blocks; known with the first.
        num_tracks: Of sound in the file, as a film has one per language; one is read.
        track: Its number, from 1: the one that is marked as the default is read, else the first.

    Raises:
        UnsupportedMedia: the content is no recording.
        DecodeError: the container cannot be read, or holds no sound.
    """

    def __init__(
        self,
        content: Bytes,
        declared: str | None = None,
        *,
        mixed: bool = True,
        max_samples: int | None = None,
    ) -> None:
        media_type, start = sniff.locate(content, declared)
        if media_type is None or asset_kind(media_type) != "audio":
            found = media_type or "an unknown type"
            raise UnsupportedMedia(
                f"not a recording: declared {declared or 'nothing'}, found {found} in "
                f"{len(content)} bytes"
            )
        self._mixed = mixed
        self._max_samples = max_samples
        self._num_bytes = len(content)
        self._waiting = tracks(memoryview(content)[start:], media_type)
        self._track = next(self._waiting)
        self.num_tracks, self.track = self._track.num_tracks, self._track.number
        self.rate_hz = RATE_HZ
        self.truncated = False
        self._num_samples = 0
        self._num_decoded = 0
        self._num_corrupt = 0
        self._flags: set[str] = set()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._track.close()

    def lasts_longer(self, limit_s: float) -> bool:
        """Check, without decoding, whether its packets last longer than a limit.

        What a file announces is only a reason to count them.
        """
        return self._track.lasts_longer(limit_s)

    def take_flags(self) -> set[str]:
        """Return what was noted since the last call."""
        flags, self._flags = self._flags, set()
        return flags

    def blocks(self) -> Iterator[Samples]:
        """Decode to the end.

        A packet that cannot be decoded is left out, and a hole is filled with silence where the
        time stamps of what follows show how long it was, so that times stay true: those of the
        container, from where its first track begins.

        Yields:
            Blocks of shape (channels, n), n >= 1, float32 in [-1, 1]; of one channel where they
            are mixed, else always of as many. Of 16 kHz, or of 8 if the recording begins so.

        Raises:
            DecodeError: nothing can be decoded, or the number of channels changes.
            LimitExceeded: more than 16 channels, one by one; more samples than allowed.
        """
        converter: Converter | None = None
        for placed in self._placed():
            if converter is None or not converter.fits(placed.frame):
                if converter is not None:
                    yield from self._counted(converter, converter.end())
                    self._check_channels(converter, placed.frame)
                elif placed.frame.sample_rate == NARROW_HZ:
                    self.rate_hz = NARROW_HZ
                converter = Converter(placed.frame, self.rate_hz, mixed=self._mixed)
            if placed.overlap_s or placed.follows_overlap:
                self._flags.add(OVERLAPPING)
            yield from self._counted(converter, converter.convert(placed))
        if converter is not None:
            yield from self._counted(converter, converter.end())
        if not self._num_samples:
            raise DecodeError(
                f"no sound could be decoded: {self._num_bytes} bytes, "
                f"codec {self._track.codec}, {self._num_corrupt} bad packets"
            )

    def _placed(self) -> Iterator[Placed]:
        """Decode the tracks of all files that are joined, each on a clock of its own."""
        while True:
            track = self._track
            clock = Clock(track.origin_s, track.most_silence_s, drops=track.has_stamps)
            decoded_s = 0.0
            if track.is_longer:
                self._flags.add(UNDECLARED)
            for placed in clock.placed(self._frames(track)):
                decoded_s += placed.silence_s + placed.frame.samples / placed.frame.sample_rate
                yield placed
            self.truncated |= track.is_truncated(decoded_s)
            following = next(self._waiting, None)
            if following is None:
                return
            track.close()
            self._track = following

    def _frames(self, track: Track) -> Iterator[AudioFrame]:
        for frame in track.frames():
            if frame is None:
                self._flags.add(CORRUPT)
                self._num_corrupt += 1
                continue
            self._num_decoded += frame.samples * frame.layout.nb_channels
            if self._max_samples is not None and self._num_decoded > self._max_samples:
                raise LimitExceeded(
                    f"audio.max_samples: more than {self._max_samples:,} samples of "
                    f"{frame.layout.nb_channels} channels of {frame.sample_rate} Hz"
                )
            if frame.samples and frame.sample_rate:
                yield frame

    def _check_channels(self, before: Converter, frame: AudioFrame) -> None:
        if not self._mixed and before.num_channels != frame.layout.nb_channels:
            raise DecodeError(
                f"audio.channels: each, and {before.num_channels} channels become "
                f"{frame.layout.nb_channels}"
            )

    def _counted(self, converter: Converter, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            if converter.take_cancelled():
                self._flags.add(CANCELLED)
            if block.size:
                self._num_samples += block.shape[1]
                yield block
