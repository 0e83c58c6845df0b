"""Decode images with Pillow: one piece per picture, RGB, upright, on white, in sRGB.

In this process, without a sandbox: Pillow's decoders for the allowed formats are fuzzed upstream,
and the pixel limit is checked before a byte is decompressed, which bounds time and memory.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, ImageSequence, TiffImagePlugin, UnidentifiedImageError

from pipeline.config import ImageConfig
from pipeline.errors import DecodeError, LimitExceeded, UnsupportedMedia
from pipeline.media import jpeg, sniff
from pipeline.media.piece import Piece

FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM")
"""What Pillow may open. EPS, WMF and the like, which start other programs, stay shut.

JPEG opens MPO too."""

# What Pillow raises for hostile bytes, beside UnidentifiedImageError and the bomb error.
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

_BITS_PER_SAMPLE = 258  # TIFF 6.0
_NEW_SUBFILE_TYPE = 254  # TIFF 6.0; bit 0: a reduced copy of another picture of the file
_ORIENTATION = 0x0112  # Exif 2.3
_UINT16_MAX = 65535
# What decoding was measured to hold, beside the file: 34 bytes of WebP can be 100 million pixels.
_BYTES_PER_PIXEL: Final = {"WEBP": 25, "JPEG2000": 20, "AVIF": 18, "HEIF": 18}
_USUAL_BYTES_PER_PIXEL = 12
_STRIP_ROWS = 256  # converted at once: a copy of 100 million pixels in double precision is 800 MB


def pieces(content: bytes, config: ImageConfig) -> Iterator[Piece]:
    """Decode an image file; one piece, or one per page of a TIFF.

    Args:
        content: The file.
        config: Limits. A large JPEG is decoded whole all the same: at a half of its size (DCT
            scaling) it takes a third less time, but a model cuts it into other crops.

    Yields:
        Pieces whose `image` is RGB. A TIFF page that is broken is a piece with an error. Flags:
        "animation" and "first_of_N_frames" (the others are not given), "icc_ignored" and
        "exif_ignored" (a profile or orientation that could not be read), "end_marker_missing" (of a
        JPEG that has all of its pixels).

    Raises:
        DecodeError: not an image, or truncated.
        UnsupportedMedia: an image format that is not read, or HEIC without its extra.
        LimitExceeded: more than `images.max_pixels` pixels, `images.max_memory_bytes` of memory
            or `images.max_frames` pages.
    """
    heic = sniff.sniff(content) == "image/heic"
    image = _open_heif(content, config) if heic else _open(content)
    with image:
        if image.format == "TIFF":
            yield from _pages(image, config)
        else:
            yield _only(image, config, content)


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own pixel limit, and corrupt EXIF: ours follow
        try:
            return Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise LimitExceeded(f"images.max_pixels: {error}") from error
        except UnidentifiedImageError as error:
            raise DecodeError(
                f"not a readable image: {len(content)} bytes, found {sniff.sniff(content)}"
            ) from error
        except _BROKEN as error:
            raise DecodeError(f"broken image header: {_words(error)}") from error


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


def _only(image: Image.Image, config: ImageConfig, content: bytes) -> Piece:
    _check_size(image.size, image.format, config)
    animation = _animation(image)
    try:
        picture, flags = _finish(image)
    except DecodeError:
        ended = jpeg.ended(content) if image.format == "JPEG" else None
        if ended is None:
            raise
        picture, flags = _finish(ended)
        flags = (*flags, "end_marker_missing")
    return Piece(index=0, count=1, kind="image", image=picture, flags=(*animation, *flags))


def _animation(image: Image.Image) -> tuple[str, ...]:
    """Flag an animation, with the number of its frames where that can be told."""
    if image.format == "MPO":  # several pictures of one scene, of which the first is the photo
        return ()
    try:
        num_frames: int = getattr(image, "n_frames", 1)
    except _BROKEN:
        return ("animation",)  # there is something after the first frame
    return ("animation", f"first_of_{num_frames}_frames") if num_frames > 1 else ()


def _pages(image: Image.Image, config: ImageConfig) -> Iterator[Piece]:
    """Give each page of a TIFF, but no reduced copies (thumbnails, pyramids)."""
    frames = _full_frames(image, config)
    for index, frame in enumerate(frames):
        number = index + 1 if len(frames) > 1 else None
        common = {"index": index, "count": len(frames), "kind": "image", "page_number": number}
        try:
            _seek(image, frame)
            _check_size(image.size, image.format, config)
            picture, flags = _finish(image)
        except (DecodeError, LimitExceeded) as error:
            yield Piece(**common, error=error)
        except _BROKEN as error:
            yield Piece(**common, error=DecodeError(f"broken TIFF page: {_words(error)}"))
        else:
            own = picture.copy() if picture is image else picture  # the next page takes its place
            yield Piece(**common, image=own, flags=flags)


def _full_frames(image: Image.Image, config: ImageConfig) -> list[int]:
    frames: list[int] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt tags: a page is judged when it is decoded
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                tags = getattr(frame, "tag_v2", {})
                if not int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1:
                    frames.append(number)
                if len(frames) > config.max_frames:
                    raise LimitExceeded(f"images.max_frames: more than {config.max_frames} pages")
    except _BROKEN as error:
        raise DecodeError(f"broken TIFF directory: {_words(error)}") from error
    return frames or [0]


def _seek(image: Image.Image, frame: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt tags, and Pillow's own pixel limit: ours follows
        image.seek(frame)


def _check_size(size: tuple[int, int], kind: str | None, config: ImageConfig) -> None:
    width_px, height_px = size
    if width_px * height_px > config.max_pixels:
        raise LimitExceeded(
            f"images.max_pixels: {width_px} x {height_px} is {width_px * height_px} pixels, "
            f"limit {config.max_pixels}"
        )
    needed_bytes = width_px * height_px * _BYTES_PER_PIXEL.get(kind or "", _USUAL_BYTES_PER_PIXEL)
    if needed_bytes > config.max_memory_bytes:
        raise LimitExceeded(
            f"images.max_memory_bytes: {width_px} x {height_px} pixels of {kind} take about "
            f"{needed_bytes} bytes to decode, limit {config.max_memory_bytes}"
        )
    if width_px < 1 or height_px < 1:
        raise DecodeError(f"an image without pixels: {width_px} x {height_px}")


def _finish(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode the pixels, set them upright, and turn them into RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF, palettes with odd transparency
        try:
            image.load()
        except _BROKEN as error:
            raise DecodeError(f"truncated or broken image: {_words(error)}") from error
        flags: list[str] = []
        bits = _bits_per_sample(image)
        try:
            ImageOps.exif_transpose(image, in_place=True)  # else it copies an upright image too
        except _BROKEN:
            flags.append("exif_ignored")
        try:
            picture, profile_flags = _to_rgb(image, bits)
        except _BROKEN as error:
            raise DecodeError(f"cannot turn mode {image.mode} into RGB: {_words(error)}") from error
    return picture, (*flags, *profile_flags)


def _to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn any of Pillow's modes into RGB without losing tone, transparency or colour space."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image, bits).convert("RGB"), ()
    image = _on_white(image)
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return _from_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), ()
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(source):
                return _plain(image), ()
            return _from_profile(image, source), ()
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return _plain(image), ("icc_ignored",)
    return _plain(image), ()


def _plain(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies RGB too


def _from_profile(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # noqa: S101 - None only with inPlace
    return converted


def _on_white(image: Image.Image) -> Image.Image:
    """Lay transparent pixels on white, as a page or a viewer shows them; Pillow shows black."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image
    profile = image.info.get("icc_profile")
    flat = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        layered = image.crop((0, top, image.width, bottom)).convert("RGBA")
        flat.paste(layered, (0, top), mask=layered.getchannel("A"))
    if profile and image.mode in {"RGBA", "RGB", "P"}:
        flat.info["icc_profile"] = profile
    return flat


def _scaled(image: Image.Image, bits: int) -> Image.Image:
    """Scale grey of more than 8 bits into 8; Pillow's own conversion clips it to white.

    Integers of 16 bits keep their scale (12-bit TIFF: its own); wider integers and floats outside
    [0, 1] have none, and are spread from their least to their greatest value.
    """
    spans = [(float(values.min()), float(values.max())) for _, values in _strips(image)]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    if image.mode == "F":
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    elif low >= 0 and high <= _UINT16_MAX:
        low, high = 0.0, float(2**bits - 1)
    span = high - low or 1.0
    scaled = Image.new("L", image.size)
    for top, values in _strips(image):
        tones = np.clip((values - low) / span * 255 + 0.5, 0, 255).astype(np.uint8)
        scaled.paste(Image.fromarray(tones), (0, top))
    return scaled


def _strips(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Give the rows of a one-channel image, some at a time; what is no number as 0."""
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        values = np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.float64)
        yield top, np.where(np.isfinite(values), values, 0.0)


def _bits_per_sample(image: Image.Image) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))
        return min(int(bits[0] if isinstance(bits, tuple) else bits), 16)
    return 16


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
