"""PNG files whose pixels are whole and whose other chunks are not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from PIL import Image

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES: Final = 12  # length, name and checksum: PNG, third edition, 5.3
_NEEDED: Final = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
# Ancillary chunks that change how the still picture looks.
_LOOKS: Final = {b"tRNS", b"iCCP", b"eXIf"}
_MOST_PROFILE_BYTES: Final = 1024**2
"""Unpacked: Pillow's `PngImagePlugin.MAX_TEXT_CHUNK`, above which it refuses the picture too."""

_FEWEST_TRANSPARENT: Final = {0: 2, 2: 6}  # bytes of tRNS, by colour type: grey, RGB; 11.3.1.1


def chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Walk through a PNG.

    Yields:
        (name, start, end) of each whole chunk, as far as they go.
    """
    at = len(SIGNATURE)
    while at + _CHUNK_BYTES <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + _CHUNK_BYTES + length
        if end > len(content):
            return
        yield content[at + 4 : at + 8], at, end
        at = end


def without_metadata(content: bytes) -> bytes | None:
    """Copy a PNG without the chunks that its still picture does not need.

    Returns:
        The copy; None where nothing could be left out, so that the damage is elsewhere.
    """
    kept, dropped = [SIGNATURE], False
    colour_type = content[25] if len(content) > 25 else 0  # noqa: PLR2004 - in IHDR
    for name, start, end in chunks(content):
        chunk = content[start:end]
        if name in _NEEDED or (name in _LOOKS and _is_whole(chunk, colour_type)):
            kept.append(chunk)
        else:
            dropped = True
    return b"".join(kept) if dropped else None


def is_animated(content: bytes) -> bool:
    """Return whether a PNG announces further frames."""
    return any(name == b"acTL" for name, _, _ in chunks(content))


def fit_transparency(image: Image.Image) -> None:
    """Bring the colour that a PNG of 16 bits names as transparent to the 8 bits Pillow reads."""
    unseen = image.info.get("transparency")
    if image.format == "PNG" and isinstance(unseen, tuple) and _is_deep(image):
        image.info["transparency"] = tuple(int(value) >> 8 for value in unseen)


def _is_deep(image: Image.Image) -> bool:
    return any("16" in str(tile[3]) for tile in image.tile)  # pyright: ignore[reportAttributeAccessIssue]


def _is_whole(chunk: bytes, colour_type: int) -> bool:
    """Check that a chunk is as it was written, and can be read with the picture."""
    name, data = chunk[4:8], chunk[8:-4]
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if name == b"iCCP":
        return _profile_fits(data)
    return name != b"tRNS" or len(data) >= _FEWEST_TRANSPARENT.get(colour_type, 1)


def _profile_fits(data: bytes) -> bool:
    packed = data[data.find(b"\0") + 2 :]
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _MOST_PROFILE_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
