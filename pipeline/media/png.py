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
    for name, start, end in chunks(content):
        chunk = content[start:end]
        if name in _NEEDED or (name in _LOOKS and _is_whole(chunk)):
            kept.append(chunk)
        else:
            dropped = True
    return b"".join(kept) if dropped else None


def is_animated(content: bytes) -> bool:
    """Say whether a PNG announces further frames."""
    return any(name == b"acTL" for name, _, _ in chunks(content))


def fit_transparency(image: Image.Image) -> None:
    """Bring the colour that a PNG of 16 bits names as transparent to the 8 bits Pillow reads."""
    unseen = image.info.get("transparency")
    if image.format == "PNG" and isinstance(unseen, tuple) and _is_deep(image):
        image.info["transparency"] = tuple(int(value) >> 8 for value in unseen)


def _is_deep(image: Image.Image) -> bool:
    return any("16" in str(tile[3]) for tile in image.tile)  # pyright: ignore[reportAttributeAccessIssue]


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
