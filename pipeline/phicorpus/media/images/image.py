"""Decode images with Pillow: one segment per picture, RGB, upright, on white, in sRGB.

Pillow's decoders for the allowed formats are fuzzed upstream, and what they will allocate is
estimated before a byte is decompressed. Files whose cost the header does not bound
(`cost.is_bounded`) are decoded in a sandbox by `decode.py`; the others in this process.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from phicorpus.config import ImageConfig
from phicorpus.errors import DecodeError, LimitExceeded, SegmentError, UnsupportedMedia
from phicorpus.media import sniff
from phicorpus.media.images import colour, jpeg, png, tiff, tiff_layout, tiff_samples, unsupported
from phicorpus.media.segment import Segment

FORMATS: Final[Mapping[str, str]] = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/jp2": "JPEG2000",
    "image/avif": "AVIF",
    "image/x-portable-anymap": "PPM",
}
"""What Pillow may open, and as what. EPS, WMF and the like start other programs: they stay shut.

JPEG opens MPO too."""

# Every picture's size is held against images.max_pixels before it is decoded; Pillow's own limit,
# which is another, would come first.
Image.MAX_IMAGE_PIXELS = None

# What Pillow raises for hostile bytes, beside UnidentifiedImageError.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    MemoryError,
)

_UINT16_BITS = 16
# What decoding was measured to hold, beside the file: 34 bytes of WebP can be 100 million pixels.
_BYTES_PER_PIXEL: Final = {"WEBP": 25, "JPEG2000": 20, "AVIF": 18, "HEIF": 18}
_USUAL_BYTES_PER_PIXEL = 12
_UPRIGHT: Final[Mapping[int, Image.Transpose]] = {  # TIFF 6.0, Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def segments(content: bytes, config: ImageConfig) -> Iterator[Segment]:
    """Decode an image file; one segment, or one per page of a TIFF.

    Args:
        content: The file.
        config: Limits. A large JPEG is decoded whole all the same: at a half of its size (DCT
            scaling) it takes a third less time, but a model cuts it into other crops.

    Yields:
        Segments whose `image` is RGB. A TIFF page that is broken, or whose layout is not read, is a
        segment with an error. Flags: "animation" and "first_of_N_frames" (the others are left out),
        "icc_ignored" and "exif_ignored" (a profile or orientation that could not be read),
        "metadata_ignored" (of a PNG whose text or frames are damaged), "end_marker_missing" (of a
        JPEG that has all of its pixels).

    Raises:
        DecodeError: not an image, or truncated.
        UnsupportedMedia: an image format, or a kind of one, that is not read; names it. HEIC
            without its extra.
        LimitExceeded: more than `images.max_pixels` pixels, `images.max_memory_bytes` of memory,
            `images.max_frames` pages or `images.max_scans` scans.
    """
    media_type = sniff.sniff(content) or "an unknown type"
    refused = unsupported.reason(content, media_type)
    if refused is not None:
        raise UnsupportedMedia(refused)
    if media_type == "image/tiff":
        yield from _pages(content, config)
        return
    if media_type == "image/jpeg":
        jpeg.check_scans(content, config.max_scans)
    with (
        _open_heif(content, config)
        if media_type == "image/heic"
        else _open(content, media_type) as image
    ):
        yield _decode_single(image, config, content)


def _open(content: bytes, media_type: str) -> Image.Image:
    if media_type not in FORMATS:
        raise DecodeError(f"not a readable image: {len(content)} bytes, found {media_type}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF
        try:
            return Image.open(io.BytesIO(content), formats=[FORMATS[media_type]])
        except _BROKEN as error:
            if media_type == "image/png" and (repaired := png.without_metadata(content)):
                return _open_repaired(repaired)
            refused = unsupported.reason_for_failure(content, media_type)
            if refused is not None:
                raise UnsupportedMedia(refused) from error
            if isinstance(error, UnidentifiedImageError):
                raise DecodeError(
                    f"not a readable image: {len(content)} bytes, found {media_type}"
                ) from error
            raise DecodeError(f"broken image header: {_words(error)}") from error


def _open_repaired(repaired: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(repaired), formats=["PNG"])
    except _BROKEN as error:
        raise DecodeError(f"broken PNG: {_words(error)}") from error
    image.info["metadata_ignored"] = True
    return image


def _open_heif(content: bytes, config: ImageConfig) -> Image.Image:
    try:
        import pillow_heif  # noqa: PLC0415 - an extra  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnsupportedMedia(
            "image/heic needs an extra: pip install 'phicorpus[heif]'"
        ) from error
    try:
        picture = pillow_heif.open_heif(content, convert_hdr_to_8bit=True)
        _check_size(picture.size, "HEIF", config)
        return picture.to_pillow()
    except _BROKEN as error:
        raise DecodeError(f"broken HEIC: {_words(error)}") from error


def _decode_single(image: Image.Image, config: ImageConfig, content: bytes) -> Segment:
    _check_size(image.size, image.format, config)
    animation = _animation(image, content)
    try:
        picture, flags = _finish(image)
    except DecodeError as error:
        again = _reopen(image.format, content)
        if again is None:
            refused = unsupported.reason_for_failure(content, sniff.sniff(content) or "")
            raise error if refused is None else UnsupportedMedia(refused) from error
        picture, flags = _finish(again)
        flags = (*flags, "end_marker_missing") if image.format == "JPEG" else flags
    if image.info.get("metadata_ignored"):
        flags = (*flags, "metadata_ignored")
    return Segment(index=0, count=1, kind="image", image=picture, flags=(*animation, *flags))


def _reopen(kind: str | None, content: bytes) -> Image.Image | None:
    """Open a file anew without what damaged it beside its pixels; None where that is not all."""
    if kind == "JPEG":
        return jpeg.ended(content)
    repaired = png.without_metadata(content) if kind == "PNG" else None
    return _open_repaired(repaired) if repaired is not None else None


def _animation(image: Image.Image, content: bytes) -> tuple[str, ...]:
    """Flag an animation, with the number of its frames where that can be told."""
    if image.format == "MPO":  # several pictures of one scene, of which the first is the photo
        return ()
    if image.info.get("metadata_ignored") and png.is_animated(content):
        return ("animation",)
    try:
        num_frames: int = getattr(image, "n_frames", 1)
    except _BROKEN:
        return ("animation",)  # there is something after the first frame
    return ("animation", f"first_of_{num_frames}_frames") if num_frames > 1 else ()


def _pages(content: bytes, config: ImageConfig) -> Iterator[Segment]:
    """Yield each page of a TIFF, but no reduced copies (thumbnails, pyramids)."""
    found = list(tiff.directories(content, config.max_frames))
    if isinstance(found[0], SegmentError):
        raise found[0]
    unsupported.refuse_raw(found[0])
    pages = [page for page in found if isinstance(page, SegmentError) or not _is_reduced(page)]
    pages = pages or found[:1]
    for index, page in enumerate(pages):
        try:
            if isinstance(page, SegmentError):
                raise page
            picture, flags = _page(page, config)
        except SegmentError as error:
            if len(pages) == 1:
                raise
            outcome: tuple[Image.Image | None, tuple[str, ...], SegmentError | None]
            outcome = None, (), error
        else:
            outcome = picture, flags, None
        yield Segment(
            index=index,
            count=len(pages),
            kind="image",
            page_number=index + 1 if len(pages) > 1 else None,
            image=outcome[0],
            flags=outcome[1],
            error=outcome[2],
        )


def _is_reduced(page: tiff.Directory) -> bool:
    try:
        return page.is_reduced
    except DecodeError:
        return False


def _page(page: tiff.Directory, config: ImageConfig) -> tuple[Image.Image, tuple[str, ...]]:
    layout = page.layout
    _check_size((layout.width_px, layout.height_px), "TIFF", config, also_bytes=layout.needed_bytes)
    if layout.reader is None:
        raise UnsupportedMedia(f"a TIFF layout that is not read: {layout}")
    if layout.reader == "samples":
        picture, flags = colour.to_rgb(tiff_samples.picture(page), _UINT16_BITS)
        turn = _UPRIGHT.get(page.one(tiff.ORIENTATION, 1))
        return (picture if turn is None else picture.transpose(turn)), flags
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt tags
        try:
            with Image.open(tiff.opened_at(page), formats=["TIFF"]) as image:
                return _finish(image, min(layout.bits[0], _UINT16_BITS))
        except (*_BROKEN, DecodeError) as error:
            if layout.compression == tiff_layout.WEBP:  # of which libtiff reads some
                raise UnsupportedMedia(f"a TIFF layout that is not read: {layout}") from error
            raise DecodeError(f"{_words(error)}; of a TIFF page: {layout}") from error


def _check_size(
    size: tuple[int, int], kind: str | None, config: ImageConfig, *, also_bytes: int = 0
) -> None:
    width_px, height_px = size
    if width_px * height_px > config.max_pixels:
        raise LimitExceeded(
            f"images.max_pixels: {width_px} x {height_px} is {width_px * height_px} pixels, "
            f"limit {config.max_pixels}"
        )
    needed_bytes = width_px * height_px * _BYTES_PER_PIXEL.get(kind or "", _USUAL_BYTES_PER_PIXEL)
    needed_bytes += also_bytes
    if needed_bytes > config.max_memory_bytes:
        raise LimitExceeded(
            f"images.max_memory_bytes: {width_px} x {height_px} pixels of {kind} take about "
            f"{needed_bytes} bytes to decode, limit {config.max_memory_bytes}"
        )
    if width_px < 1 or height_px < 1:
        raise DecodeError(f"an image without pixels: {width_px} x {height_px}")


def _finish(image: Image.Image, bits: int = _UINT16_BITS) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode the pixels, set them upright, and turn them into RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF, palettes with odd transparency
        png.fit_transparency(image)
        try:
            image.load()
        except _BROKEN as error:
            raise DecodeError(f"truncated or broken image: {_words(error)}") from error
        flags: list[str] = []
        try:
            ImageOps.exif_transpose(image, in_place=True)  # else it copies an upright image too
        except _BROKEN:
            flags.append("exif_ignored")
        try:
            picture, profile_flags = colour.to_rgb(image, bits)
        except _BROKEN as error:
            raise DecodeError(f"cannot turn mode {image.mode} into RGB: {_words(error)}") from error
    return picture, (*flags, *profile_flags)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
