"""JPEG files that lack nothing but their end marker, as interrupted writers leave them."""

from __future__ import annotations

import io
import warnings
from typing import Final

from PIL import Image

_END_OF_IMAGE: Final = b"\xff\xd9"  # ITU-T T.81, B.1.1.3
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
