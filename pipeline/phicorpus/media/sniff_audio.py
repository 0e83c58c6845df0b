"""Recognise recordings by their content: containers, frames in a row, tags before them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from phicorpus.media.media_types import MEDIA_TYPES
from phicorpus.media.segment import Bytes

_RIFF_FORMS: Final[Mapping[bytes, str]] = {
    b"WAVE": "audio/wav",
    b"AVI ": "video/x-msvideo",
    b"QLCM": "audio/qcelp",
}
_IFF_FORMS: Mapping[bytes, str] = {
    b"AIFF": "audio/aiff",
    b"AIFC": "audio/aiff",
    b"8SVX": "audio/x-8svx",
}
# The first boxes of QuickTime files that were written before there was `ftyp`.
_QUICKTIME_BOXES = {b"moov", b"mdat", b"wide", b"pnot"}
_TRUEHD_SYNC = {b"\xf8\x72\x6f\xba", b"\xf8\x72\x6f\xbb"}
_TS_PACKETS = ((0, 188), (4, 192), (0, 204))  # first sync byte and length: plain, M2TS, with FEC
_SYNC_TS = 0x47

# Letters that begin many texts, and the version behind them.
_MARKS = (
    (re.compile(rb"MAC .[\x0e\x0f]", re.DOTALL), "audio/x-ape"),
    (re.compile(rb"MP\+[\x07\x17]"), "audio/x-musepack"),
)

_SEARCHED_BYTES = 64 * 1024
_MOST_TAGS = 16
_GSM_FRAME_BYTES, _GSM_MARK = 33, 0xD  # RFC 3551, 4.5.8
_GSM_LEAST_FRAMES = 10  # 0.2 s: by chance one file in 16 ** 10 begins so


def sniff_container(head: bytes) -> str | None:
    """Recognise containers whose type is inside, by their first bytes."""
    if head[:4] in {b"RIFF", b"RF64", b"BW64", b"RIFX"}:
        return _RIFF_FORMS.get(head[8:12])
    if head[:4] == b"FORM":
        return _IFF_FORMS.get(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head else "video/x-matroska"
    if head[4:8] in _QUICKTIME_BOXES:
        return "video/quicktime"
    if head[4:8] in _TRUEHD_SYNC:
        return "audio/x-truehd"
    return next((kind for mark, kind in _MARKS if mark.match(head)), None)


def sniff_frames(content: Bytes) -> str | None:
    """Recognise what has no signature: frames or packets that follow one another from here on."""
    head = bytes(content[:4])
    if head[:2] in {b"\xff\xf1", b"\xff\xf9"}:
        return "audio/aac"
    found = next((kind for kind, length in _FRAMES.items() if _frames_at(content, 0, length)), None)
    if found is None and _lone_mp3_frame(content):
        found = "audio/mpeg"
    if found is None and any(_is_ts(content, *packet) for packet in _TS_PACKETS):
        found = "video/mp2t"
    return "audio/x-gsm" if found is None and _is_gsm(content) else found


def search(content: Bytes, declared: str | None) -> tuple[str, int] | None:
    """Look for the sound that a name or a manifest promises, behind what is no sound.

    Of MPEG audio and AAC: the first two frames that follow one another, within 64 kB, as in a
    stream that somebody began to record. What has no mark at all is taken for what it is said to
    be.

    Returns:
        Media type, and where it begins; None if there is no such sound.

    Example:
        >>> frame = bytes([0xFF, 0xFB, 0x90, 0]) + bytes(413)
        >>> search(bytes(100) + frame + frame, "audio/mpeg")
        ('audio/mpeg', 100)
        >>> search(bytes(100) + frame + frame, "image/png") is None
        True
    """
    entry = MEDIA_TYPES.get(declared or "")
    if entry is not None and entry.by_name_only:
        return entry.name, 0
    length = _FRAMES.get(declared or "")
    if declared is None or length is None:
        return None
    window = bytes(content[:_SEARCHED_BYTES])
    for match in _SYNCS[declared].finditer(window):
        if _frames_at(content, match.start(), length):
            return declared, match.start()
    return None


def tag_bytes(content: Bytes) -> int:
    r"""Return the length of the ID3v2 and APE tags that content begins with, with their padding.

    Example:
        >>> tag_bytes(b"ID3\x04\0\0\0\0\x01\x02" + bytes(130) + b"RIFF"), tag_bytes(b"RIFF")
        (140, 0)
    """
    end = 0
    for _ in range(_MOST_TAGS):
        size = id3_bytes(content[end : end + 10]) or _ape_bytes(content[end : end + 32])
        if not size:
            break
        end += size
    if end:
        padding = bytes(content[end : end + _SEARCHED_BYTES])
        zeros = len(padding) - len(padding.lstrip(b"\0"))
        end += zeros - zeros % 4 if content[end : end + 4] == bytes(4) else 0
    return min(end, len(content))


def id3_bytes(content: Bytes) -> int:
    r"""Return the length of the ID3v2 tag that content begins with; 0 if there is none.

    Example:
        >>> id3_bytes(b"ID3\x04\0\0\0\0\x01\x02" + bytes(130)), id3_bytes(b"RIFF")
        (140, 0)
    """
    if bytes(content[:3]) != b"ID3" or len(content) < 10:  # noqa: PLR2004 - its header
        return 0
    size = 0
    for byte in content[6:10]:  # of seven bits
        size = size << 7 | byte & 0x7F
    footer = 10 if content[5] & 0x10 else 0
    return size + 10 + footer


def _ape_bytes(header: Bytes) -> int:
    if bytes(header[:8]) != b"APETAGEX" or len(header) < 32:  # noqa: PLR2004 - its header
        return 0
    return int.from_bytes(header[12:16], "little") + 32


def _frames_at(content: Bytes, start: int, length: Callable[[Bytes], tuple[int, object]]) -> bool:
    """Check for three frames of one kind in a row, or two that end where the content does."""
    position, kind = start, None
    for number in range(3):
        size, found = length(content[position : position + 8])
        if not size:
            return number == 2 and position >= len(content) - 3  # noqa: PLR2004 - two and no third
        if kind is not None and found != kind:
            return False
        position, kind = position + size, found
    return True


# Kilobits per second by index, of MPEG 1 and of MPEG 2, by layer: ISO 11172-3, 13818-3.
_KBITS: Mapping[tuple[bool, int], tuple[int, ...]] = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MPEG_1 = 3
_NOTHING = (0, None)


def _mpeg_frame(header: Bytes) -> tuple[int, object]:
    """Return the length of the MPEG audio frame that a header announces, 0 for none; its kind."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - sync
        return _NOTHING
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in {0, 15} or rate == 3:  # noqa: PLR2004 - reserved
        return _NOTHING
    bits_per_s = 1000 * _KBITS[version == _MPEG_1, layer][bitrate]
    rate_hz = _MPEG_RATES_HZ[version][rate]
    if layer == 1:
        size = (12 * bits_per_s // rate_hz + padding) * 4
    else:
        half = layer == 3 and version != _MPEG_1  # noqa: PLR2004 - the third layer
        size = (72 if half else 144) * bits_per_s // rate_hz + padding
    return size, (version, layer, rate)


_TOTAL = re.compile(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", re.DOTALL)
_VBRI_TOTAL = re.compile(rb"VBRI.{10}(.{4})", re.DOTALL)
_HEAD_BYTES = 4096  # padding, and the first frame, which has at most 1441


def mpeg_length_s(content: Bytes) -> float | None:
    """Read the length of an MP3 that states its number of frames, as encoders do in the first one.

    FFmpeg takes the file's size into account, which is that of several files where they are joined.
    """
    head = bytes(content[:_HEAD_BYTES])
    found = _TOTAL.search(head) or _VBRI_TOTAL.search(head)
    if found is None:
        return None
    for sync in _SYNCS["audio/mpeg"].finditer(head, 0, found.start()):
        version, rate = head[sync.start() + 1] >> 3 & 3, head[sync.start() + 2] >> 2 & 3
        if _mpeg_frame(head[sync.start() : sync.start() + 8])[0]:
            samples = 1152 if version == _MPEG_1 else 576
            return int.from_bytes(found[1], "big") * samples / _MPEG_RATES_HZ[version][rate]
    return None


def _adts_frame(header: Bytes) -> tuple[int, object]:
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:  # noqa: PLR2004 - sync
        return _NOTHING
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (size, (header[1] & 8, header[2] & 0xFC)) if size > 7 else _NOTHING  # noqa: PLR2004


_AC3_KBITS = (
    32,
    40,
    48,
    56,
    64,
    80,
    96,
    112,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    448,
    512,
    576,
    640,
)
_AC3_LAST, _EAC3_LAST = 10, 16  # bsid: ATSC A/52, E.1.3.1.6


def _ac3_frame(header: Bytes) -> tuple[int, object]:
    if len(header) < 6 or bytes(header[:2]) != b"\x0b\x77":  # noqa: PLR2004 - sync
        return _NOTHING
    bsid, rate, code = header[5] >> 3, header[4] >> 6, header[4] & 0x3F
    if bsid > _AC3_LAST or rate == 3 or code >> 1 >= len(_AC3_KBITS):  # noqa: PLR2004 - reserved
        return _NOTHING
    kbits = _AC3_KBITS[code >> 1]
    words = (2 * kbits, kbits * 96_000 // 44_100 + (code & 1), 3 * kbits)[rate]
    return 2 * words, (rate, bsid)


def _eac3_frame(header: Bytes) -> tuple[int, object]:
    if len(header) < 6 or bytes(header[:2]) != b"\x0b\x77":  # noqa: PLR2004 - sync
        return _NOTHING
    if not _AC3_LAST < header[5] >> 3 <= _EAC3_LAST:
        return _NOTHING
    return 2 * (((header[2] & 7) << 8 | header[3]) + 1), header[4] >> 6


def _latm_frame(header: Bytes) -> tuple[int, object]:
    if len(header) < 3 or header[0] != 0x56 or header[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - sync
        return _NOTHING
    return ((header[1] & 0x1F) << 8 | header[2]) + 3, None


_FRAMES: Mapping[str, Callable[[Bytes], tuple[int, object]]] = {
    "audio/mpeg": _mpeg_frame,
    "audio/aac": _adts_frame,
    "audio/ac3": _ac3_frame,
    "audio/eac3": _eac3_frame,
    "audio/x-latm": _latm_frame,
}
_SYNCS = {
    "audio/mpeg": re.compile(rb"(?=\xff[\xe2-\xff])"),
    "audio/aac": re.compile(rb"(?=\xff[\xf0\xf1\xf8\xf9])"),
    "audio/ac3": re.compile(rb"(?=\x0b\x77)"),
    "audio/eac3": re.compile(rb"(?=\x0b\x77)"),
    "audio/x-latm": re.compile(rb"(?=\x56[\xe0-\xff])"),
}


def _lone_mp3_frame(content: Bytes) -> bool:
    """Check for an MP3 frame, and the next where this one ends, if the content goes on."""
    length, kind = _mpeg_frame(content[:4])
    if not length or kind is None or content[1] & 0x06 != 0x02:  # noqa: PLR2004 - layer III
        return False
    return len(content) <= length or _mpeg_frame(content[length : length + 4])[0] > 0


def _is_ts(content: Bytes, first: int, length: int) -> bool:
    places = [content[at : at + 1] for at in range(first, first + 3 * length, length)]
    return all(len(place) and place[0] == _SYNC_TS for place in places)


def _is_gsm(content: Bytes) -> bool:
    """Check for raw GSM 06.10, as telephone systems keep it: each frame begins with 0xD."""
    starts = content[: _GSM_FRAME_BYTES * 100 : _GSM_FRAME_BYTES]
    return len(starts) >= _GSM_LEAST_FRAMES and all(byte >> 4 == _GSM_MARK for byte in starts)
