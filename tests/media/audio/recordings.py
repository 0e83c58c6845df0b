"""Recordings made in the test: bursts of a tone that begin at known times."""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.audio.stream
import numpy as np

from phicorpus.config import AudioConfig
from phicorpus.media.audio import recording
from phicorpus.media.segment import Samples, Segment

RATE_HZ = 16_000
BURST_S = 0.2
_PICTURES = {"webm": "libvpx", "flv": "flv"}


def bursts(*times: float, s: float = 6.0, rate_hz: int = RATE_HZ) -> Samples:
    samples = np.zeros(round(s * rate_hz), np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(BURST_S * rate_hz)) / rate_hz)
    for time_s in times:
        start = round(time_s * rate_hz)
        samples[start : start + tone.size] = tone
    return samples


def pcm(samples: Samples, kind: str = "<i2") -> bytes:
    return (samples * 32767).astype(kind).tobytes()


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    header = name + struct.pack("<I", len(body) if size is None else size)
    return header + body + bytes(len(body) % 2)


def a_format(rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    width = 2 * channels
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate_hz, width * rate_hz, width, 16))


def a_wav(*chunks: bytes, size: int | None = None) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks), size)


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a recorder writes.

    Attributes:
        rate_hz: Of the samples; those of Opus have 48,000.
        lost: Tells which packets never arrive.
        at_s: When the sound begins.
        video_s: How long the picture is beside it; 0: there is none.
        speed: Of the time stamps against the samples; below 1 they overlap.
    """

    rate_hz: int = RATE_HZ
    lost: Callable[[int], bool] = lambda _: False
    at_s: float = 0.0
    video_s: float = 0.0
    speed: float = 1.0

    def write(self, samples: Samples, container: str, codec: str) -> bytes:
        """Encode a recording."""
        target = io.BytesIO()
        rate_hz = 48_000 if codec == "libopus" else self.rate_hz
        samples = samples.repeat(rate_hz // self.rate_hz)
        with av.open(target, "w", format=container) as output:
            picture: av.VideoStream | None = None
            if self.video_s:
                added = output.add_stream(_PICTURES.get(container, "mpeg4"), rate=5)
                assert isinstance(added, av.VideoStream)
                picture = added
                picture.width = picture.height = 32
            track = output.add_stream(codec, rate=rate_hz, layout="mono")
            assert isinstance(track, av.audio.stream.AudioStream)
            if picture is not None:
                for number in range(round(self.video_s * 5)):
                    image = av.VideoFrame(32, 32, "yuv420p")
                    image.pts, image.time_base = number, Fraction(1, 5)
                    output.mux(picture.encode(image))
                output.mux(picture.encode(None))
            packets = [
                packet
                for frame in self._frames(samples, codec, rate_hz)
                for packet in track.encode(frame)
            ]
            for number, packet in enumerate(packets):
                if packet.pts is not None:
                    packet.pts = packet.dts = round(packet.pts * self.speed)
                if not self.lost(number):
                    output.mux(packet)
        return target.getvalue()

    def _frames(self, samples: Samples, codec: str, rate_hz: int) -> Iterator[av.AudioFrame | None]:
        size = rate_hz // 50 if codec == "libopus" else 1024
        for start in range(0, samples.size, size):
            part = (samples[np.newaxis, start : start + size] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(part), format="s16", layout="mono"
            )
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = start + round(self.at_s * rate_hz)
            yield frame
        yield None


def heard(content: bytes, declared: str | None = None) -> tuple[list[float], list[Segment]]:
    """Decode, and tell when bursts begin, in seconds."""
    segments = list(recording.segments(content, AudioConfig(vad=False), declared))
    samples = np.concatenate(
        [segment.samples for segment in segments if segment.samples is not None]
    )
    rate_hz = segments[0].rate_hz or RATE_HZ
    frame = rate_hz // 100
    whole = samples[: samples.size // frame * frame].reshape(-1, frame)
    loud = np.flatnonzero(np.sqrt((whole**2).mean(axis=1)) > 0.1)
    starts = loud[np.diff(loud, prepend=-1000) > 30]
    return [float(start) / 100 for start in starts], segments


def flags(segments: Sequence[Segment]) -> set[str]:
    return {flag for segment in segments for flag in segment.flags}
