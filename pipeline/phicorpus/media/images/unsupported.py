"""Distinguish valid images that are not read, which can be converted, from damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from phicorpus.errors import DecodeError, UnsupportedMedia
from phicorpus.media.images import jpeg, tiff
from phicorpus.media.media_types import asset_kind

# ITU-T T.81, table B.1: frames that libjpeg does not read; T.87: JPEG-LS.
_JPEG_FRAMES: Final[Mapping[int, str]] = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic",
    0xCA: "arithmetic progressive",
    0xCB: "lossless arithmetic",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
    0xF7: "JPEG-LS",
}
_JPEG_READ: Final = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_JPEG_SAMPLES: Final = {1, 3, 4}
_BMP_COMPRESSIONS: Final[Mapping[int, str]] = {
    0: "none",
    1: "RLE8",
    2: "RLE4",
    3: "bit fields",
    4: "JPEG",
    5: "PNG",
    6: "alpha bit fields",
}
_BMP_BITS: Final = {0, 1, 2, 4, 8, 16, 24, 32, 64}
_OLD_BMP_HEADER, _SHORT_BMP_HEADER = 12, 16
_JP2_SIZE: Final = b"\xff\x4f\xff\x51"
_JP2_SAMPLES: Final = 4
_JP2_BITS: Final = 16
_JP2_TILE_PIXELS: Final = 2**28


def reason(content: bytes, media_type: str) -> str | None:
    """Return why an image is not read, where its header shows it; None where it should be."""
    if media_type == "image/jpeg":
        return _jpeg(content)
    if asset_kind(media_type) is None and media_type.startswith("image/"):
        return f"{media_type} is not read: convert it, to PNG for example"
    return None


def reason_for_failure(content: bytes, media_type: str) -> str | None:
    """Return what is unusual about an image that could not be decoded; None where nothing is."""
    if media_type == "image/bmp":
        return _bmp(content)
    if media_type == "image/jp2":
        return _jp2(content)
    return None


def refuse_raw(first: tiff.Directory) -> None:
    """Refuse camera raw, whose pages are thumbnails: what the sensor saw is not a picture yet.

    Raises:
        UnsupportedMedia: it is DNG, or one of its directories is from a sensor.
    """
    is_raw = first.content[8:10] == b"CR"  # Canon CR2
    try:
        is_raw = (
            is_raw or first.is_raw or any(below.is_raw for below in tiff.sub_directories(first))
        )
    except DecodeError:
        return
    if is_raw:
        raise UnsupportedMedia("camera raw is not read: develop it into TIFF or JPEG")


def _jpeg(content: bytes) -> str | None:
    for marker, at in jpeg.segments(content):
        if marker not in _JPEG_FRAMES:
            if marker == jpeg.START_OF_SCAN[1]:
                return None
            continue
        bits, num_samples = content[at + 2 : at + 3], content[at + 7 : at + 8]
        if not num_samples:
            return None
        strange = (
            marker not in _JPEG_READ or bits[0] != 8 or num_samples[0] not in _JPEG_SAMPLES  # noqa: PLR2004
        )
        kind = f"{_JPEG_FRAMES[marker]}, {num_samples[0]} samples of {bits[0]} bits"
        return f"a JPEG kind that is not read: {kind}" if strange and bits[0] else None
    return None


def _bmp(content: bytes) -> str | None:
    (header_bytes,) = struct.unpack("<I", content[14:18])
    if header_bytes == _SHORT_BMP_HEADER:
        return "a BMP kind that is not read: OS/2's short header"
    if header_bytes == _OLD_BMP_HEADER or len(content) < header_bytes + 14:
        return None
    bits, compression = struct.unpack_from("<HI", content, 28)
    if bits not in _BMP_BITS or compression not in _BMP_COMPRESSIONS:
        return None
    masks = [f"{mask:#x}" for mask in struct.unpack("<3I", content[54:66].ljust(12, b"\0"))]
    plain = compression in {0, 1, 2} and bits in {1, 4, 8, 16, 24, 32}
    told = f", masks {', '.join(masks)}" if compression == 3 else ""  # noqa: PLR2004 - bit fields
    if plain:
        return None
    return (
        f"a BMP kind that is not read: {bits} bits, "
        f"compression {_BMP_COMPRESSIONS[compression]}{told}"
    )


def _jp2(content: bytes) -> str | None:
    at = content.find(_JP2_SIZE)
    if at < 0 or len(content) < at + 44:
        return None
    # ISO 15444-1, A.5.1
    _, _, width, height, left, top, across, down, *_ = struct.unpack_from(">HH8I", content, at + 4)
    (num_samples,) = struct.unpack_from(">H", content, at + 40)
    depths = [byte & 0x7F for byte in content[at + 42 : at + 42 + 3 * num_samples : 3]]
    bits = max((depth + 1 for depth in depths), default=0)
    wide = across * down > _JP2_TILE_PIXELS
    if not (left or top or wide or num_samples > _JP2_SAMPLES or bits > _JP2_BITS):
        return None
    return (
        f"a JPEG 2000 kind that is not read: {num_samples} samples of {bits} bits, "
        f"{width} x {height} from ({left}, {top}) in tiles of {across} x {down}"
    )
