"""Recordings that attack: lies about their length, hours in a few bytes, playlists."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.hostile.attack import Attack, attack
from tests.media.builders import a_recording, a_tone, a_voice

_HOURS = "LimitExceeded"


def attacks() -> Iterator[Attack]:
    yield attack(
        "a WAV that announces 37 hours, and has a second",
        a_wav(data_bytes=0x7FFFFE00, present=bytes(32_000)),
        *(_HOURS, "ok"),
        says=r"audio\.max_hours",
    )
    yield attack(
        "a WAV without a length that goes on for six minutes",
        a_wav(data_bytes=0xFFFFFFFF, present=bytes(32_000 * 360)),
        *(_HOURS, "ok"),
        says=r"audio\.max_hours",
    )
    flac = bytearray(a_recording(a_tone(s=1.0), kind="FLAC"))
    flac[21:26] = bytes([flac[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # STREAMINFO's sample count
    yield attack(
        "a FLAC that announces 1193 hours",
        bytes(flac),
        "ok",
    )
    mp3 = a_recording(np.zeros(16_000 * 20, np.float32), kind="MP3")
    yield attack(
        "an MP3 of 20 silent seconds a hundred times",
        mp3 * 100,
        *(_HOURS, "ok"),
        says=r"audio\.max_hours",
    )
    yield attack(
        "a WAV of 65,535 channels", a_wav(channels=65_535, present=bytes(999)), "DecodeError"
    )
    yield attack("a WAV of 0 Hz", a_wav(rate_hz=0, present=bytes(9999)), "DecodeError")
    yield attack("a WAV of 4 GHz", a_wav(rate_hz=2**32 - 1, present=bytes(9999)), "DecodeError")
    yield attack("a WAV without samples", a_wav(present=b""), "DecodeError")
    yield attack(
        "a WAV of numbers that are none",
        a_recording(np.full(8000, np.nan, np.float32), subtype="FLOAT"),
        "ok",
    )
    yield attack(
        "a recording followed by a web page",
        a_recording(a_voice(s=1.0)) + b"<html><script>alert(1)</script></html>",
        "ok",
    )


def linking(link: str) -> Iterator[Attack]:
    """Give playlists and scripts that name another place."""
    for name, content in (
        ("an HLS playlist", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{link}\n"),
        ("a concat script", f"ffconcat version 1.0\nfile '{link}'\n"),
        ("an SDP", f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nu={link}\nm=audio 9 RTP/AVP 0\n"),
    ):
        yield attack(name, content.encode(), "UnsupportedMedia", media_type="audio/mpeg")


def a_wav(
    *,
    present: bytes,
    data_bytes: int | None = None,
    channels: int = 1,
    rate_hz: int = 16_000,
) -> bytes:
    """Write a WAV of 16-bit samples whose header may lie."""
    size = len(present) if data_bytes is None else data_bytes
    per_s = min(rate_hz * channels * 2, 2**32 - 1)
    block = min(channels * 2, 65_535)
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, per_s, block, 16)
    return (
        b"RIFF\xff\xff\xff\xffWAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", size)
        + present
    )
