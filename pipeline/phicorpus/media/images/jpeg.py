"""JPEG files: what their markers say, and those that lack nothing but the last one."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Final

from PIL import Image

from phicorpus.errors import LimitExceeded

_END_OF_IMAGE: Final = b"\xff\xd9"  # ITU-T T.81, B.1.1.3
START_OF_SCAN: Final = b"\xff\xda"
_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # 0 and restarts are among the pixels
_WITHOUT_LENGTH: Final = {0x01, 0xD8}
_FILLINGS: Final = (b"", b"\x55" * 64, b"\xaa\x13" * 64)


def ended(content: bytes) -> Image.Image | None:
    """Open a JPEG that lacks its end marker; None where it lacks pixels, or is broken otherwise.

    A decoder reads nothing behind the last pixel. So pixels that do not depend on what is put
    there are all in the file; of a progressive one a whole pass could be missing all the same.
    """
    present = content.rstrip(b"\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF
        try:
            images = [
                Image.open(io.BytesIO(present + filling + _END_OF_IMAGE), formats=["JPEG"])
                for filling in _FILLINGS
            ]
            if any("progressive" in image.info for image in images):
                return None
            pixels = {image.tobytes() for image in images}
        except (OSError, SyntaxError, ValueError):
            return None
    return images[0] if len(pixels) == 1 else None


def check_scans(content: bytes, max_scans: int) -> None:
    """Refuse a JPEG of very many scans: each costs a pass over all pixels, however short it is.

    Raises:
        LimitExceeded: more than `images.max_scans`.
    """
    if content.count(START_OF_SCAN) <= max_scans:  # those of a thumbnail, too
        return
    num_scans = 0
    for marker in markers(content):
        num_scans += marker == START_OF_SCAN[1]
        if num_scans > max_scans:
            raise LimitExceeded(f"images.max_scans: more than {max_scans} scans of a JPEG")


def markers(content: bytes) -> Iterator[int]:
    """Walk through the markers of a JPEG up to its end, past what its segments hold."""
    for marker, _ in segments(content):
        yield marker


def segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Walk through a JPEG.

    Yields:
        (marker, where its data begin) up to the end marker, without what segments hold.
    """
    at = 2
    while found := _MARKER.search(content, at):
        marker, at = content[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE[1]:
            return
        yield marker, at
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
