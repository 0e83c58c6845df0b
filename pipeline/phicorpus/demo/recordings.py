"""Recordings of speech, composed of clips, with the exact time of every sentence."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]
AudioFormat = Literal["wav", "flac", "ogg"]

CLIP_RATE_HZ = 16_000
SPEECH_FOLDER = Path(__file__).parent / "speech"
_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}
_SIDES = np.array([[1.0, 0.25], [0.25, 1.0]], np.float32)  # a speaker left, a speaker right
_OGG_SERIAL = 0x70686963


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """One spoken sentence.

    Attributes:
        samples: shape (n,), float32 in [-1, 1], mono 16 kHz, without silence at the ends.
    """

    text: str
    voice: str
    samples: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence of a recording and when it is spoken."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Samples, shape (n, channels), float32 in [-1, 1], and what is said in them, in order."""

    samples: Samples
    rate_hz: int
    sentences: tuple[Sentence, ...]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz

    def to_text(self) -> str:
        """Join the sentences in order."""
        return " ".join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingStyle:
    """The settings of a recording.

    Attributes:
        num_sentences: 0 gives silence of `lead_s` alone.
        pause_s: Shortest and longest silence between sentences.
        lead_s: Silence before the first sentence; half of it follows the last.
        channels: With 2, the sentences change sides.
        noise: Root mean square of white noise over everything, as a part of full scale.
    """

    num_sentences: int = 1
    pause_s: tuple[float, float] = (0.4, 1.2)
    lead_s: float = 0.3
    rate_hz: int = CLIP_RATE_HZ
    channels: Literal[1, 2] = 1
    noise: float = 0.0


@lru_cache(maxsize=1)
def load_clips() -> tuple[Clip, ...]:
    """Read the clips that are shipped with the package (made by demo/synthesise.py)."""
    index = json.loads((SPEECH_FOLDER / "clips.json").read_text("utf-8"))
    clips: list[Clip] = []
    for entry in index:
        read, _ = soundfile.read(SPEECH_FOLDER / entry["file"], dtype="float32")
        samples = np.asarray(read, np.float32)
        clips.append(Clip(text=entry["text"], voice=entry["voice"], samples=samples))
    return tuple(clips)


def compose(rng: np.random.Generator, clips: tuple[Clip, ...], style: RecordingStyle) -> Recording:
    """Put clips one after the other with pauses; no clip twice until all were used.

    Args:
        rng: Chooses clips, pauses and noise.
        clips: What can be said; mono 16 kHz.
        style: Length, rate, channels and noise.
    """
    rate_hz = style.rate_hz
    order: list[int] = []
    while len(order) < style.num_sentences:
        order += rng.permutation(len(clips)).tolist()
    parts: list[Samples] = [_silence(style.lead_s, style)]
    position = len(parts[0])
    sentences: list[Sentence] = []
    for number in range(style.num_sentences):
        if number:
            pause = _silence(float(rng.uniform(*style.pause_s)), style)
            parts.append(pause)
            position += len(pause)
        clip = clips[order[number]]
        spoken = _resample(clip.samples, rate_hz)
        sides = _SIDES[number % 2] if style.channels == 2 else np.ones(1, np.float32)  # noqa: PLR2004
        parts.append(spoken[:, None] * sides)
        start_s, position = position / rate_hz, position + len(spoken)
        sentences.append(Sentence(text=clip.text, start_s=start_s, end_s=position / rate_hz))
    parts.append(_silence(style.lead_s / 2, style))
    samples = np.concatenate(parts)
    if style.noise:
        samples = samples + rng.normal(0, style.noise, samples.shape).astype(np.float32)
    return Recording(samples=samples, rate_hz=rate_hz, sentences=tuple(sentences))


def encode(recording: Recording, audio_format: AudioFormat) -> bytes:
    """Write a recording as WAV or FLAC (16 bit) or OGG Vorbis, always the same bytes."""
    buffer = io.BytesIO()
    channels = recording.samples.shape[1]
    with soundfile.SoundFile(
        buffer,
        "w",
        samplerate=recording.rate_hz,
        channels=channels,
        format=audio_format.upper(),
        subtype=_SUBTYPES[audio_format],
    ) as file:
        # In blocks: libsndfile 1.2.2 can crash on a long Vorbis array.
        for start in range(0, len(recording.samples), recording.rate_hz):
            file.write(np.clip(recording.samples[start : start + recording.rate_hz], -1, 1))
    content = buffer.getvalue()
    return _fix_ogg_serial(content) if audio_format == "ogg" else content


def _silence(seconds: float, style: RecordingStyle) -> Samples:
    return np.zeros((round(seconds * style.rate_hz), style.channels), np.float32)


def _resample(samples: Samples, rate_hz: int) -> Samples:
    if rate_hz == CLIP_RATE_HZ:
        return samples
    return soxr.resample(samples, CLIP_RATE_HZ, rate_hz, quality="HQ").astype(np.float32)


def _fix_ogg_serial(content: bytes) -> bytes:
    """Set an Ogg stream's fixed serial number; libsndfile takes one from the clock.

    Page layout and checksum: RFC 3533, section 6.
    """
    fixed = bytearray(content)
    position = 0
    while position < len(fixed):
        num_segments = fixed[position + 26]
        size = 27 + num_segments + sum(fixed[position + 27 : position + 27 + num_segments])
        struct.pack_into("<II", fixed, position + 14, _OGG_SERIAL, _sequence(fixed, position))
        struct.pack_into("<I", fixed, position + 22, 0)
        checksum = _ogg_checksum(bytes(fixed[position : position + size]))
        struct.pack_into("<I", fixed, position + 22, checksum)
        position += size
    return bytes(fixed)


def _sequence(page: bytearray, position: int) -> int:
    return struct.unpack_from("<I", page, position + 18)[0]


@lru_cache(maxsize=1)
def _checksum_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


def _ogg_checksum(page: bytes) -> int:
    table = _checksum_table()
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ table[(value >> 24) ^ byte]
    return value
