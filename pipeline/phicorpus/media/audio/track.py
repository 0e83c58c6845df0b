"""One track of sound, as FFmpeg or libsndfile decodes it, and what its file announces of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition

from phicorpus.errors import DecodeError
from phicorpus.media.audio import chunks
from phicorpus.media.audio.chunks import Sound
from phicorpus.media.audio.convert import BROKEN
from phicorpus.media.audio.joined_file import JoinedFile
from phicorpus.media.media_types import MEDIA_TYPES
from phicorpus.media.segment import Bytes
from phicorpus.media.sniff_audio import mpeg_length_s

# The container states the length of the track of sound, or of all tracks, on its own clock. Of
# other formats FFmpeg only guesses it, from bit rates and the last time stamps that it finds.
_STATES_LENGTH = {
    *("flac", "mov", "matroska", "asf", "flv", "wv", "ape", "tta", "tak", "mpc", "mpc8"),
    *("dsf", "qoa", "mxf", "nut", "nistsphere"),
}
# Time stamps are counted from frames, not read: holes between them are packets that were lost.
_COUNTS_STAMPS = {"aac", "amr", "mp3", "loas", "ac3", "eac3", "dts", "truehd", "gsm", "g722"}
_READS_STAMPS = {"mov", "matroska", "mpegts", "mpeg", "ogg", "flv", "asf", "mxf", "nut"}
_AVI_MARGIN_BYTES = 1024  # an index that is not there costs no sound
_OGG_TAIL_BYTES = 128 * 1024  # a page has at most 65,307
_TRUNCATED_S = 0.5  # encoder delay and padding are below it
_TRUNCATED_RATIO = 0.02
_SNDFILE_FRAMES = 16_384
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
# 3GPP TS 26.101 and 26.201: comfort noise and "nothing was sent", which are no speech frames.
_UNSENT = {"amr_nb": range(8, 16), "amr_wb": range(9, 16)}


class Track(Protocol):
    """A track of sound.

    Attributes:
        num_tracks: Of sound in its file; `number`: which of them this is, from 1.
        codec: Its name.
        origin_s: Where its file's clock begins; None: with the track's first frame.
        has_stamps: Time stamps are read from the file, so that they tell of overlaps too.
        is_longer: It has samples behind those that its file announces.
    """

    num_tracks: int
    number: int
    codec: str
    origin_s: float | None
    has_stamps: bool
    is_longer: bool

    def frames(self) -> Iterator[AudioFrame | None]:
        """Decode to the end; None for a packet that cannot be decoded."""
        ...

    def most_silence_s(self, position_s: float) -> float:
        """Return the longest silence that its file leaves room for at a position."""
        ...

    def is_truncated(self, decoded_s: float) -> bool:
        """Check whether its file announces more than was decoded."""
        ...

    def lasts_longer(self, limit_s: float) -> bool:
        """Check whether its packets last longer than so many seconds."""
        ...

    def close(self) -> None:
        """Close its file."""
        ...


def tracks(content: Bytes, media_type: str) -> Iterator[Track]:
    """Open the track of a recording; several one after the other where files are joined.

    Raises:
        DecodeError: the container cannot be read, or holds no sound.
    """
    demuxer = MEDIA_TYPES[media_type].demuxer
    found = chunks.find(content, demuxer)
    for sound in found:
        if sound.for_sndfile:
            yield SndfileTrack(sound, media_type)
        else:
            yield FFmpegTrack(sound.parts, sound.demuxer, media_type, sound)
    if not found:
        yield FFmpegTrack((content,), demuxer, media_type, None)


class FFmpegTrack:
    """A track that PyAV decodes, through the one demuxer that may be used."""

    def __init__(
        self, parts: tuple[Bytes, ...], demuxer: str, media_type: str, sound: Sound | None
    ) -> None:
        self._parts = parts
        self._demuxer = demuxer
        self._sound = sound
        num_bytes = sum(map(len, parts))
        try:
            self._container = self._opened()
        except BROKEN as error:
            raise DecodeError(f"not a readable {media_type}: {error}") from error
        streams = self._container.streams.audio
        if not streams:
            self.close()
            raise DecodeError(f"no audio stream in {media_type}, {num_bytes} bytes")
        self.num_tracks = len(streams)
        self.number = _default(streams)
        self._stream = streams[self.number - 1]
        codec = _codec_name(self._stream)
        if codec is None:
            self.close()
            raise DecodeError(f"an unknown audio codec in {media_type}, {num_bytes} bytes")
        self.codec = codec
        self.is_longer = sound is not None and sound.is_longer
        self.has_stamps = demuxer in _READS_STAMPS
        self._starts_s = _seconds(self._container.start_time, 1 / av.time_base)
        self.origin_s = self._origin_s()
        self._states_length = demuxer in _STATES_LENGTH or demuxer == "mp3"
        self._end_s = self._announced_end_s()

    def close(self) -> None:
        self._container.close()

    def frames(self) -> Iterator[AudioFrame | None]:
        """Decode to the end; None for a packet that cannot be decoded."""
        for packet in _packets(self._container, self._stream):
            if packet is None:
                yield None
                return
            if _is_unsent(packet, self.codec):
                yield _silent(packet, self._stream)
                continue
            try:
                yield from packet.decode()
            except BROKEN:
                if not bytes(packet)[:8].startswith(_TAGS):  # of the next of several files
                    yield None

    def most_silence_s(self, position_s: float) -> float:
        """Return the longest silence that the file leaves room for at a position.

        A wrong time stamp then cannot turn seconds into hours of silence.
        """
        if self._demuxer in _COUNTS_STAMPS or self._end_s is None or position_s > self._end_s:
            return sys.maxsize
        return self._end_s - position_s

    def is_truncated(self, decoded_s: float) -> bool:
        """Check whether the file announces more than was decoded; FFmpeg says nothing then."""
        if self._demuxer == "ogg":
            return not _ogg_is_whole(self._parts[0])
        if self._demuxer == "avi":
            return not _avi_is_whole(self._parts[0])
        if self._sound is not None:
            missing_s = decoded_s * self._sound.missing_share
            return missing_s > _TRUNCATED_S + _TRUNCATED_RATIO * (decoded_s + missing_s)
        if not self._states_length or self._end_s is None:
            return False
        missing_s = self._end_s - decoded_s
        if missing_s <= _TRUNCATED_S + _TRUNCATED_RATIO * self._end_s:
            return False
        others = [s for s in self._container.streams if s.type in {"video", "audio"}]
        return len(others) < 2 or not self._others_reach_end()  # noqa: PLR2004 - this one alone

    def lasts_longer(self, limit_s: float) -> bool:
        """Check whether the packets last longer than so many seconds, without decoding them."""
        announced_s = _seconds(self._container.duration, 1 / av.time_base) or 0.0
        stream_s = _seconds(self._stream.duration, self._stream.time_base) or 0.0
        if max(announced_s, stream_s) <= limit_s:
            return False
        total_s = 0.0
        with self._opened() as container:
            stream = container.streams.audio[self.number - 1]
            for packet in _packets(container, stream):
                if packet is not None and packet.size:
                    total_s += _seconds(packet.duration, packet.time_base) or 0.0
                if total_s > limit_s:
                    return True
        return False

    def _opened(self) -> InputContainer:
        return av.open(
            cast("BinaryIO", JoinedFile(self._parts)),
            mode="r",
            format=self._demuxer,
            metadata_errors="replace",
        )

    def _origin_s(self) -> float | None:
        """Return where the clock begins: with the container's first track.

        Times before 0 are those of what an encoder put before the sound, and nobody hears.
        """
        if self._starts_s is not None:
            return max(0.0, self._starts_s)
        return 0.0 if self._demuxer in _COUNTS_STAMPS else None

    def _announced_end_s(self) -> float | None:
        """Return where the track ends on its own clock, as far as anybody says."""
        if self._demuxer == "mp3":
            return mpeg_length_s(self._parts[0])
        stream_s = _seconds(self._stream.duration, self._stream.time_base)
        if self._demuxer == "mov" and stream_s is not None:  # from its own start
            start_s = _seconds(self._stream.start_time, self._stream.time_base) or 0.0
            return stream_s + max(0.0, start_s - (self.origin_s or 0.0))
        whole_s = _seconds(self._container.duration, 1 / av.time_base)
        if self._demuxer == "asf" and stream_s is not None:  # to the whole it adds its start
            return stream_s
        return stream_s if whole_s is None else whole_s

    def _others_reach_end(self) -> bool:
        """Check whether a picture, or another track, goes on where the sound does not."""
        end_s = self._end_s or 0.0
        wanted_s = end_s + (self.origin_s or 0.0) - _TRUNCATED_S - _TRUNCATED_RATIO * end_s
        with self._opened() as container:
            for packet in _packets(container, None):
                if packet is None or packet.pts is None or packet.time_base is None:
                    continue
                if float(packet.pts * packet.time_base) >= wanted_s and packet.size:
                    return True
        return False


class SndfileTrack:
    """A track that libsndfile decodes, where FFmpeg would make noise of it."""

    def __init__(self, sound: Sound, media_type: str) -> None:
        self._sound = sound
        try:
            self._file = soundfile.SoundFile(cast("BinaryIO", JoinedFile(sound.parts)))
        except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
            raise DecodeError(f"not a readable {media_type}: {error}") from error
        self.num_tracks = self.number = 1
        self.codec = str(self._file.subtype)
        self.origin_s: float | None = 0.0
        self.has_stamps = False
        self.is_longer = sound.is_longer

    def close(self) -> None:
        self._file.close()

    def frames(self) -> Iterator[AudioFrame | None]:
        """Decode to the end."""
        layout = {1: "mono", 2: "stereo"}.get(self._file.channels)
        layout = layout or f"{self._file.channels} channels"
        while True:
            block = self._file.read(_SNDFILE_FRAMES, dtype="float32", always_2d=True)
            if not len(block):
                return
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(block.reshape(1, -1), np.float32), format="flt", layout=layout
            )
            frame.sample_rate = self._file.samplerate
            yield frame

    def most_silence_s(self, position_s: float) -> float:
        return 0.0 * position_s

    def is_truncated(self, decoded_s: float) -> bool:
        return decoded_s * self._sound.missing_share > _TRUNCATED_S

    def lasts_longer(self, limit_s: float) -> bool:
        return self._file.frames / self._file.samplerate > limit_s


def _packets(container: InputContainer, stream: AudioStream | None) -> Iterator[Packet | None]:
    """Read packets to the end; None where the container breaks off."""
    packets = container.demux(stream) if stream is not None else container.demux()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except BROKEN:
            yield None
            return
        yield packet


def _default(streams: tuple[AudioStream, ...]) -> int:
    marked = (n for n, s in enumerate(streams, start=1) if s.disposition & Disposition.default)
    return next(marked, 1)


def _codec_name(stream: AudioStream) -> str | None:
    """Name the stream's codec; None for one that FFmpeg does not know."""
    context = cast("object | None", stream.codec_context)
    return None if context is None else stream.codec_context.codec.canonical_name


def _seconds(value: int | None, unit: object) -> float | None:
    return None if value is None or unit is None else float(value * cast("float", unit))


def _is_unsent(packet: Packet, codec: str) -> bool:
    """Check for a packet in which a telephone says that it sends nothing, for nobody speaks."""
    types = _UNSENT.get(codec)
    return types is not None and packet.size > 0 and bytes(packet)[0] >> 3 & 0xF in types


def _silent(packet: Packet, stream: AudioStream) -> AudioFrame:
    rate_hz = stream.codec_context.sample_rate
    frame = AudioFrame.from_ndarray(
        np.zeros((1, rate_hz // 50), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = rate_hz
    frame.pts, frame.time_base = packet.pts, packet.time_base
    return frame


def _avi_is_whole(content: Bytes) -> bool:
    """Check whether a file has what its RIFF header announces; 0 is that of one still written."""
    size = int.from_bytes(content[4:8], "little")
    return size in {0, 0xFFFFFFFF} or len(content) + _AVI_MARGIN_BYTES >= size + 8


def _ogg_is_whole(content: Bytes) -> bool:
    """Check whether the last Ogg page is whole (RFC 3533, 6); many recorders mark none as last."""
    tail = bytes(content[-_OGG_TAIL_BYTES:])
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    num_segments = tail[page + 26]
    length = 27 + num_segments + sum(tail[page + 27 : page + 27 + num_segments])
    return len(tail) >= page + length
