"""Turn any of Pillow's pictures into RGB on white, without losing tone, transparency or colour."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Values = npt.NDArray[Any]

STRIP_ROWS: Final = 256
"""Rows converted at once: a copy of 100 million pixels in double precision is 800 MB."""

_UINT16_MAX = 65535
_GRID_STEPS = 9
_SAME_TONES = 3  # of 255: what two makers' sRGB profiles differ by


def to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn a decoded picture into RGB; of grey with more than 8 bits, `bits` are used.

    Returns:
        The picture, and "icc_ignored" where its colour profile could not be applied.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image, bits).convert("RGB"), ()
    image = _on_white(image)
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return _from_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), ()
    if profile and image.mode in {"P", "PA"}:
        image = _plain(image)
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        try:
            if image.mode == "RGB" and _is_srgb(profile):
                return image, ()
            return _from_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile))), ()
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return _plain(image), ("icc_ignored",)
    return _plain(image), ()


def eight_bits(values: Values, colours: int) -> npt.NDArray[np.uint8]:
    """Scale samples of any type into 8 bits, the last axis being the colours, and alpha if any.

    Whole numbers of up to 16 bits keep their scale, whatever they are kept in; of those that are
    kept in 16 bits without sign, grey is rounded, and colour cut as Pillow cuts it. Floats within
    [0, 1] keep theirs. So do wider numbers without sign, if they reach into the upper half of what
    they are kept in. Others have no scale, and are spread from the least to the greatest value.
    """
    if values.dtype == np.uint8:
        return values
    is_float = values.dtype.kind == "f"
    full = 1.0 if is_float else float(np.iinfo(values.dtype).max)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # noqa: PLR2004 - bytes
        if colours > 1:
            return (values >> 8).astype(np.uint8)
        low, high = 0.0, full
    else:
        strips = (values[rows, :, :colours] for rows in _rows(len(values)))
        low, high = _span(strips, is_float=is_float)
        if full > _UINT16_MAX // 2 and low >= 0 and high <= _UINT16_MAX:
            low, high = 0.0, float(_UINT16_MAX)
        elif values.dtype.kind == "u" and high > full / 2:
            low, high = 0.0, full
    tones = np.empty(values.shape, np.uint8)
    for rows in _rows(len(values)):
        tones[rows, :, :colours] = _spread(values[rows, :, :colours], low, high)
        tones[rows, :, colours:] = _spread(values[rows, :, colours:], 0.0, full)
    return tones


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Return whether a profile leaves colours as they are in sRGB, whatever it is called."""
    steps = np.linspace(0, 255, _GRID_STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = np.asarray(_from_profile(Image.fromarray(grid), source), np.int16)
    return bool(np.abs(converted - grid).max() <= _SAME_TONES)


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
    for rows in _rows(image.height):
        layered = image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA")
        flat.paste(layered, (0, rows.start), mask=layered.getchannel("A"))
    if profile and image.mode in {"RGBA", "RGB", "P", "PA"}:
        flat.info["icc_profile"] = profile
    return flat


def _scaled(image: Image.Image, bits: int) -> Image.Image:
    """Scale grey of more than 8 bits into 8; Pillow's own conversion clips it to white.

    Integers of 16 bits keep their scale (12-bit TIFF: its own); wider integers and floats outside
    [0, 1] have none, and are spread from their least to their greatest value. The one value that a
    PNG names as transparent becomes white.
    """
    is_float = image.mode == "F"
    low, high = _span((values for _, values in _strips(image)), is_float=is_float)
    if not is_float and low >= 0 and high <= _UINT16_MAX:
        low, high = 0.0, float(2**bits - 1)
    unseen = image.info.get("transparency")
    scaled = Image.new("L", image.size)
    for top, values in _strips(image):
        tones = _spread(values, low, high)
        if isinstance(unseen, int):
            tones[values == unseen] = 255
        scaled.paste(Image.fromarray(tones), (0, top))
    return scaled


def _span(strips: Iterable[Values], *, is_float: bool) -> tuple[float, float]:
    """Find the least and the greatest value; 0 and 1 for floats between them."""
    spans = [(float(kept.min()), float(kept.max())) for kept in map(_finite, strips)]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return (0.0, 1.0) if is_float and low >= 0 and high <= 1 else (low, high)


def _spread(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    tones = (_finite(values) - low) / (high - low or 1.0) * 255 + 0.5
    return np.clip(tones, 0, 255).astype(np.uint8)


def _strips(image: Image.Image) -> Iterator[tuple[int, Values]]:
    """Cut a one-channel image into rows, some at a time."""
    for rows in _rows(image.height):
        yield rows.start, np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _rows(height: int) -> Iterator[slice]:
    for top in range(0, height, STRIP_ROWS):
        yield slice(top, min(top + STRIP_ROWS, height))


def _finite(values: Values) -> npt.NDArray[np.float64]:
    """Take what is no number as 0."""
    doubles = values.astype(np.float64)
    return np.where(np.isfinite(doubles), doubles, 0.0)
