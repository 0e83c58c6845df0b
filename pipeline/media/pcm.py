"""Read any recording as a stream of blocks, with PyAV and soxr: of 16 kHz, or of 8 if it has that.

Telephony is left at 8 kHz: the models have features of their own for it.
"""

from __future__ import annotations

import io
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final, cast

import av
import av.error
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from pipeline.errors import DecodeError, LimitExceeded, UnsupportedMedia
from pipeline.media import sniff
from pipeline.media.piece import Bytes, Samples

RATE_HZ: Final = 16_000
NARROW_HZ: Final = 8_000

DEMUXERS: Mapping[str, str] = {
    "audio/wav": "wav",
    "audio/x-w64": "w64",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/mpeg": "mp3",
    "audio/aac": "aac",
    "audio/mp4": "mov",
    "audio/3gpp": "mov",
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "audio/x-ms-wma": "asf",
    "audio/amr": "amr",
    "audio/aiff": "aiff",
    "audio/basic": "au",
    "audio/x-caf": "caf",
    "audio/x-gsm": "gsm",
    "video/mp2t": "mpegts",
    "video/x-flv": "flv",
    "video/x-msvideo": "avi",
}
"""FFmpeg's demuxer for each media type: the only one it may use."""

# Frames and nothing else: their length is nowhere stated, and FFmpeg's guess, from the bit rate of
# the first ones, may be wrong by any factor. It counts their time stamps, from 0.
_BARE = {"audio/aac", "audio/amr"}
_MP3_TOTAL = re.compile(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI")
_MP3_HEAD_BYTES = 4096  # behind ID3 tags: padding, and the first frame, which has at most 1441
_STEREO = 2
_MAX_CHANNELS = 16  # one by one, each with a detector and windows of its own
_OGG_TAIL_BYTES = 128 * 1024  # a page has at most 65,307
# WAVE_FORMAT_PCM, IEEE_FLOAT, ALAW, MULAW and EXTENSIBLE (RFC 2361): so many bits per sample.
_WAV_SAMPLES = {0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE}
_STREAMED_BYTES = 0x7FFFFF00  # the size that programs write into a pipe, or RF64's marker
_SURROUND_GAIN = 0.5  # swresample adds a 5.1 mix up to 3.1 times full scale in float
_JITTER_S = 0.1  # time stamps of containers are rounded; only a longer hole is one
_MIN_RATE_HZ, _MAX_RATE_HZ = 2000, 1_000_000  # outside lie damaged headers
_TRUNCATED_S = 0.5  # encoder delay and padding are below it
_TRUNCATED_RATIO = 0.02
# IndexError: a damaged table of streams
_BROKEN = (
    *(av.error.FFmpegError, ValueError, IndexError, OSError),
    *(MemoryError, OverflowError, RuntimeError),
)


class Recording:
    """An open recording; use it in a `with`.

    Attributes:
        declared_s: Length that the file states; None where it does not.
        rate_hz: Of the blocks; known with the first.
        num_tracks: Of sound in the file, as a film has one per language; the first is read.

    Raises:
        UnsupportedMedia: the content is no recording.
        DecodeError: the container cannot be read, or holds no sound.
    """

    def __init__(self, content: Bytes, *, mixed: bool = True) -> None:
        media_type = sniff.sniff(content)
        demuxer = DEMUXERS.get(media_type or "")
        if demuxer is None:
            raise UnsupportedMedia(
                f"not a recording: {len(content)} bytes, found {media_type or 'an unknown type'}"
            )
        try:
            self._container = av.open(
                cast("BinaryIO", _InPlace(content)),
                mode="r",
                format=demuxer,
                metadata_errors="replace",
            )
        except _BROKEN as error:
            raise DecodeError(f"not a readable {media_type}: {error}") from error
        self._mixed = mixed
        self._num_bytes = len(content)
        streams = self._container.streams.audio
        if not streams:
            self._container.close()
            raise DecodeError(f"no audio stream in {media_type}, {len(content)} bytes")
        self._stream = streams[0]
        self.num_tracks = len(streams)
        codec = _codec_name(self._stream)
        if codec is None:
            self._container.close()
            raise DecodeError(f"an unknown audio codec in {media_type}, {len(content)} bytes")
        self._codec = codec
        self._bare = media_type in _BARE or (media_type == "audio/mpeg" and not _mp3_total(content))
        self.declared_s = (
            None if self._bare else _declared_s(self._container, self._stream, content, media_type)
        )
        self._lacks_end = media_type == "audio/ogg" and not _ogg_ends(content)
        self.rate_hz = RATE_HZ
        self._num_samples = 0
        self._num_corrupt = 0
        self._corrupt = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def truncated(self) -> bool:
        """Whether the file announces more than `blocks` has found; FFmpeg says nothing then."""
        if self.declared_s is None or self._lacks_end:
            return self._lacks_end
        missing_s = self.declared_s - self._num_samples / self.rate_hz
        return missing_s > _TRUNCATED_S + _TRUNCATED_RATIO * self.declared_s

    def take_corrupt(self) -> bool:
        """Tell whether packets were lost since the last call."""
        corrupt, self._corrupt = self._corrupt, False
        return corrupt

    def blocks(self) -> Iterator[Samples]:
        """Decode to the end.

        A packet that cannot be decoded is left out, and the hole is filled with silence where the
        next one's time stamp shows how long it was, so that times stay true.

        Yields:
            Blocks of shape (channels, n), n >= 1, float32 in [-1, 1]; of one channel where they
            are mixed, else always of as many. Of 16 kHz, or of 8 if the recording begins so.

        Raises:
            DecodeError: nothing can be decoded, or the number of channels changes.
            LimitExceeded: more than 16 channels, one by one.
        """
        converter: _Converter | None = None
        for frame in self._frames():
            if converter is None or not converter.fits(frame):
                if converter is not None:
                    yield from self._counted(converter.end())
                    self._check_channels(converter, frame)
                elif frame.sample_rate == NARROW_HZ:
                    self.rate_hz = NARROW_HZ
                next_s = self._start_s if converter is None else None
                converter = _Converter(frame, self.rate_hz, mixed=self._mixed, next_s=next_s)
            yield from self._counted(converter.convert(frame, self._num_hidden(frame)))
        if converter is not None:
            yield from self._counted(converter.end())
        if not self._num_samples:
            raise DecodeError(
                f"no sound could be decoded: {self._num_bytes} bytes, "
                f"codec {self._codec}, {self._num_corrupt} bad packets"
            )

    def _check_channels(self, before: _Converter, frame: AudioFrame) -> None:
        if not self._mixed and before.num_channels != frame.layout.nb_channels:
            raise DecodeError(
                f"audio.channels: each, and {before.num_channels} channels become "
                f"{frame.layout.nb_channels}"
            )

    @property
    def _start_s(self) -> float | None:
        """The time stamp at which the sound begins, whether its first packets are whole or not."""
        if self._stream.start_time is None or self._stream.time_base is None:
            return 0.0 if self._bare else None
        return float(self._stream.start_time * self._stream.time_base)

    def _num_hidden(self, frame: AudioFrame) -> int:
        """Count the lost samples that may be hidden before a frame: to the announced end at most.

        A wrong time stamp then cannot turn seconds into hours of silence. Those of bare frames are
        counted, not read.
        """
        if self._bare:
            return sys.maxsize
        if self.declared_s is None:
            return 0
        left_s = self.declared_s - self._num_samples / self.rate_hz
        return max(0, round(left_s * frame.sample_rate) - frame.samples)

    def _counted(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            if block.size:
                self._num_samples += block.shape[1]
                yield block

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except _BROKEN:  # the container breaks off here
                self._lost()
                return
            try:
                yield from packet.decode()
            except _BROKEN:
                self._lost()

    def _lost(self) -> None:
        self._corrupt = True
        self._num_corrupt += 1


class _InPlace:
    """A file over bytes that are read where they lie: of hours of sound there is no second copy."""

    def __init__(self, content: Bytes) -> None:
        self._content = memoryview(content)
        self._position = 0

    def read(self, size: int) -> bytes:
        part = bytes(self._content[self._position : self._position + size])
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}
        self._position = max(0, base[whence] + offset)  # beyond the end too: there is nothing there
        return self._position

    def tell(self) -> int:
        return self._position


class _Converter:
    """Turns frames of one sample format, layout and rate into one rate, mixed or by channel."""

    def __init__(self, first: AudioFrame, to_hz: int, *, mixed: bool, next_s: float | None) -> None:
        self._kind = _kind(first)
        self._rate_hz = first.sample_rate
        if not _MIN_RATE_HZ <= self._rate_hz <= _MAX_RATE_HZ:
            raise DecodeError(f"a sample rate of {self._rate_hz} Hz")
        # swresample only changes the sample format, and folds surround down: its own stereo to
        # mono is 3 dB too loud in float, and its resampler is duller than soxr's.
        self._mixed = mixed
        self.num_channels = 1 if mixed else first.layout.nb_channels
        if self.num_channels > _MAX_CHANNELS:
            raise LimitExceeded(
                f"audio.channels: each, of {self.num_channels} channels, limit {_MAX_CHANNELS}"
            )
        surround = mixed and first.layout.nb_channels > _STEREO
        surround = surround and " channels" not in first.layout.name  # nobody says which is which
        layout = "mono" if surround else None
        self._num_planes = 1 if surround else first.layout.nb_channels
        packed = self._num_planes > _STEREO  # PyAV (18.1) crashes on eight planes and more
        try:
            self._format = AudioResampler(
                format="flt" if packed else "fltp", layout=layout, rate=self._rate_hz
            )
        except _BROKEN as error:
            raise DecodeError(f"cannot convert {self._kind}: {error}") from error
        self._gain = np.float32(_SURROUND_GAIN if surround else 1.0)
        self._resampler = (
            None
            if self._rate_hz == to_hz
            else soxr.ResampleStream(
                self._rate_hz, to_hz, self.num_channels, dtype="float32", quality="HQ"
            )
        )
        self._next_s = next_s

    def fits(self, frame: AudioFrame) -> bool:
        return _kind(frame) == self._kind

    def convert(self, frame: AudioFrame, max_missing: int) -> Iterator[Samples]:
        num_missing = min(self._num_missing(frame), max_missing)
        while num_missing > 0:
            silence = np.zeros((self.num_channels, min(num_missing, self._rate_hz)), np.float32)
            num_missing -= silence.shape[1]
            yield self._resampled(silence)
        try:
            converted = self._format.resample(frame)
        except _BROKEN as error:
            raise DecodeError(f"cannot convert {_kind(frame)}: {error}") from error
        for planes in converted:
            samples = planes.to_ndarray().astype(np.float32, copy=False)
            if len(samples) != self._num_planes:
                samples = samples.reshape(-1, self._num_planes).T
            if self._mixed:
                samples = self._gain * samples.mean(axis=0, dtype=np.float32, keepdims=True)
            yield self._resampled(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0))

    def end(self) -> Iterator[Samples]:
        if self._resampler is not None:
            nothing = np.zeros((0, self.num_channels), np.float32)
            yield _clipped(self._resampler.resample_chunk(nothing, last=True).T)

    def _num_missing(self, frame: AudioFrame) -> int:
        """Count the samples between the last frame's end and this one's time stamp."""
        hole_s = 0.0
        if frame.time is not None:
            if self._next_s is not None:
                hole_s = frame.time - self._next_s
            if hole_s < _JITTER_S:
                hole_s = 0.0
            self._next_s = frame.time
        if self._next_s is not None:
            self._next_s += frame.samples / self._rate_hz
        return round(hole_s * self._rate_hz)

    def _resampled(self, samples: Samples) -> Samples:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples.T)).T
        return _clipped(samples)


def _codec_name(stream: AudioStream) -> str | None:
    """Name the stream's codec; None for one that FFmpeg does not know."""
    context = cast("object | None", stream.codec_context)
    return None if context is None else stream.codec_context.name


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _clipped(samples: Samples) -> Samples:
    return np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)


def _declared_s(
    container: InputContainer,
    stream: AudioStream,
    content: Bytes,
    media_type: str | None,
) -> float | None:
    """Read the announced length: of the sound if the container knows it, else of the whole."""
    if media_type == "audio/wav":
        announced_s = _wav_s(content)
        if announced_s is not None:
            return announced_s
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _mp3_total(content: Bytes) -> bool:
    """Tell whether an MP3 states its number of frames, as encoders write it into the first one."""
    start = sniff.id3_bytes(content)
    return _MP3_TOTAL.search(bytes(content[start : start + _MP3_HEAD_BYTES])) is not None


def _wav_s(content: Bytes) -> float | None:
    """Read a RIFF's length from its own header; FFmpeg trusts the file's size instead."""
    position, bytes_per_s = 12, 0
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        if name == b"fmt " and position + 24 <= len(content):
            form, channels, rate_hz, bytes_per_s, _, bits = struct.unpack_from(
                "<HHIIHH", content, position + 8
            )
            if form in _WAV_SAMPLES:  # of these the figure is superfluous, and often wrong
                bytes_per_s = rate_hz * channels * -(-bits // 8)
        if name == b"data":
            streamed = size == 0 or size >= _STREAMED_BYTES
            return None if streamed or not bytes_per_s else size / bytes_per_s
        position += 8 + size + size % 2
    return None


def _ogg_ends(content: Bytes) -> bool:
    """Tell whether the last Ogg page is whole and marked as the stream's last (RFC 3533, 6)."""
    tail = bytes(content[-_OGG_TAIL_BYTES:])
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    num_segments = tail[page + 26]
    length = 27 + num_segments + sum(tail[page + 27 : page + 27 + num_segments])
    return bool(tail[page + 5] & 4) and len(tail) >= page + length
