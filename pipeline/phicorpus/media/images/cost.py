"""Check whether an image's size bounds the cost of decoding it, or a time limit has to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from phicorpus.errors import SegmentError
from phicorpus.media.images import jpeg, png, tiff, tiff_layout

_MAX_PARTS: Final = 50_000  # chunks, blocks or strips, each of which is read by Python
_MAX_PYTHON_BYTES: Final = 256 * 1024  # of formats whose pixels Pillow reads in Python
_MAX_EXTRA_SCANS: Final = 500  # of JPEGs in a TIFF, beside one for each part
_MAX_DIRECTORIES: Final = 2_000
_CODED: Final = {"image/jp2", "image/avif", "image/heic"}
_PLAIN_PNM: Final = (b"P1", b"P2", b"P3")
_BMP_RLE: Final = {b"\x01", b"\x02"}
_GIF_HEADER_BYTES, _GIF_FRAME_BYTES = 13, 10  # GIF89a, 18 and 20
_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C


def is_bounded(content: bytes, media_type: str) -> bool:
    """Return whether an image's pixels and bytes bound what decoding it takes.

    Not of JPEG 2000, AVIF and HEIC: their streams may hold other pictures than their headers
    announce. Nor of files in very many small parts.
    """
    return media_type not in _CODED and _IS_BOUNDED.get(media_type, _always)(content)


def _always(_: bytes) -> bool:
    return True


def _jpeg(content: bytes) -> bool:
    """Count segments up to the first scan: behind it Python reads none."""
    for number, (marker, _) in enumerate(jpeg.segments(content)):
        if marker == jpeg.START_OF_SCAN[1]:
            return True
        if number == _MAX_PARTS:
            return False
    return True


def _png(content: bytes) -> bool:
    return all(number < _MAX_PARTS for number, _ in enumerate(png.chunks(content)))


def _gif(content: bytes) -> bool:
    return _num_gif_blocks(content) < _MAX_PARTS


def _bmp(content: bytes) -> bool:
    return content[30:31] not in _BMP_RLE or len(content) < _MAX_PYTHON_BYTES


def _pnm(content: bytes) -> bool:
    return not content.startswith(_PLAIN_PNM) or len(content) < _MAX_PYTHON_BYTES


def _num_gif_blocks(content: bytes) -> int:
    """Count a GIF's blocks, as far as it is one, up to the number that matters."""
    at = _GIF_HEADER_BYTES + _colours_bytes(content[10:11])
    num_blocks = 0
    while at < len(content) and num_blocks < _MAX_PARTS:
        kind = content[at]
        if kind == _GIF_EXTENSION:
            at += 2
        elif kind == _GIF_FRAME:
            at += _GIF_FRAME_BYTES + _colours_bytes(content[at + 9 : at + 10]) + 1
        else:
            at, num_blocks = at + 1, num_blocks + 1
            continue
        while at < len(content) and content[at] and num_blocks < _MAX_PARTS:
            at, num_blocks = at + 1 + content[at], num_blocks + 1
        at += 1
    return num_blocks


def _colours_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _layout(page: tiff.Directory) -> tiff_layout.Layout | None:
    try:
        return page.layout
    except SegmentError:  # this page will be an error, and cost nothing
        return None


def _tiff(content: bytes) -> bool:
    num_parts, has_jpeg = 0, False
    try:
        for page in tiff.directories(content, _MAX_DIRECTORIES):
            if isinstance(page, SegmentError):
                break
            layout = _layout(page)
            if layout is not None:
                num_parts += layout.num_parts
                has_jpeg = has_jpeg or layout.compression in {
                    tiff_layout.JPEG,
                    tiff_layout.OLD_JPEG,
                }
    except SegmentError:  # more of them, or none
        return False
    num_scans = content.count(jpeg.START_OF_SCAN) if has_jpeg else 0
    return num_parts < _MAX_PARTS and num_scans <= num_parts + _MAX_EXTRA_SCANS


_IS_BOUNDED: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/gif": _gif,
    "image/tiff": _tiff,
    "image/bmp": _bmp,
    "image/x-portable-anymap": _pnm,
}
