"""Read the samples of a TIFF page whose layout Pillow gets wrong or does not know.

libtiff, as it comes with Pillow, only unpacks here: each plane is given to it as a grey picture of
bytes; numpy puts byte order, predictor and planes right. A decoder of its own for these rare
layouts would be one more library that reads hostile input.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from phicorpus.errors import DecodeError
from phicorpus.media.images import colour, tiff, tiff_layout
from phicorpus.media.images.tiff import Directory
from phicorpus.media.images.tiff_layout import Layout

Values = npt.NDArray[Any]

_ASSOCIATED: Final = 1  # TIFF 6.0, ExtraSamples
_HORIZONTAL, _FLOATING = 2, 3  # TIFF 6.0, Predictor, and its third technical note
_KINDS: Final[Mapping[int, str]] = {
    tiff_layout.UINT: "u",
    tiff_layout.INT: "i",
    tiff_layout.FLOAT: "f",
}
_SHORT, _LONG = 3, 4  # TIFF 6.0, types
_LONG_MAX = 2**32 - 1
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, TypeError, OverflowError, RuntimeError)

Mode = Literal["L", "La", "LA", "RGB", "RGBa", "RGBA", "CMYK"]


def picture(directory: Directory) -> Image.Image:
    """Decode a page into Pillow's L, LA, RGB, RGBA or CMYK, with its colour profile in `info`.

    Raises:
        DecodeError: its data are cut off or broken.
    """
    layout = directory.layout
    colours = tiff_layout.COLOURS[layout.photometric]
    try:
        tones = colour.eight_bits(_samples(directory, layout), colours)
    except _BROKEN as error:
        raise DecodeError(f"truncated or broken TIFF page: {error}") from error
    if layout.photometric == tiff_layout.WHITE_IS_ZERO:
        tones = np.concatenate([255 - tones[..., :1], tones[..., 1:]], axis=-1)
    image = _merged(tones, _mode(layout, colours))
    profile = directory.icc_profile
    if profile:
        image.info["icc_profile"] = profile
    return image


def _mode(layout: Layout, colours: int) -> Mode:
    """Name the mode; a further sample whose meaning is not said is alpha, as Pillow has it."""
    if colours == tiff_layout.COLOURS[tiff_layout.CMYK]:
        return "CMYK"
    if layout.num_samples == colours or layout.extra == (0,):
        return "L" if colours == 1 else "RGB"
    if layout.extra == (_ASSOCIATED,):
        return "La" if colours == 1 else "RGBa"
    return "LA" if colours == 1 else "RGBA"


def _merged(tones: npt.NDArray[np.uint8], mode: Mode) -> Image.Image:
    """Merge bands, and divide by alpha what was multiplied with it."""
    bands = [
        Image.fromarray(np.ascontiguousarray(tones[..., band]))
        for band in range(Image.getmodebands(mode))
    ]
    merged = Image.merge(mode, bands) if len(bands) > 1 else bands[0]
    return merged.convert(mode.upper()) if mode.endswith("a") else merged


def _samples(directory: Directory, layout: Layout) -> Values:
    """Read a page's samples: shape (height, width, samples), of the file's own type."""
    if not layout.planar:
        return _plane(directory, layout, 0, layout.num_samples)
    planes = [_plane(directory, layout, plane, 1) for plane in range(layout.num_samples)]
    return np.concatenate(planes, axis=-1)


def _plane(directory: Directory, layout: Layout, plane: int, num_samples: int) -> Values:
    """Read one plane; in one go with what fills up its last tiles, then cut to its size."""
    across, down = _num_parts(layout)
    width_px = across * layout.part_px[0]
    height_px = down * layout.part_px[1] if layout.tiled else layout.height_px
    sample_bytes = layout.bits[0] // 8
    content = _as_bytes(directory, layout, plane, (width_px, height_px, num_samples * sample_bytes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own pixel limit: the samples were counted
        with Image.open(io.BytesIO(content), formats=["TIFF"]) as unpacked:
            data = np.asarray(unpacked)
    kind = np.dtype(f"{layout.order}{_KINDS[layout.formats[0]]}{sample_bytes}")
    parts = data.reshape(height_px, across, layout.part_px[0] * num_samples * sample_bytes)
    if layout.predictor == _FLOATING:
        parts, kind = _with_floats(parts, num_samples, sample_bytes), kind.newbyteorder(">")
    shape = height_px, across, layout.part_px[0], num_samples
    if layout.predictor == _HORIZONTAL:
        whole = np.dtype(f"{layout.order}u{sample_bytes}")
        steps = parts.view(whole).reshape(shape)
        values = steps.cumsum(axis=2, dtype=whole.newbyteorder("=")).view(kind.newbyteorder("="))
    else:
        values = np.ascontiguousarray(parts).view(kind).reshape(shape)
    return values.reshape(height_px, width_px, num_samples)[
        : layout.height_px, : layout.width_px
    ].astype(kind.newbyteorder("="), copy=False)


def _with_floats(parts: Values, num_samples: int, sample_bytes: int) -> Values:
    """Undo the floating point predictor: bytes of one significance lie together in a row."""
    height_px, across, row_bytes = parts.shape
    steps = parts.reshape(height_px, across, row_bytes // num_samples, num_samples)
    summed = steps.cumsum(axis=2, dtype=np.uint8)
    by_significance = summed.reshape(height_px, across, sample_bytes, row_bytes // sample_bytes)
    return np.ascontiguousarray(by_significance.swapaxes(2, 3)).reshape(parts.shape)


def _num_parts(layout: Layout) -> tuple[int, int]:
    across = -(-layout.width_px // layout.part_px[0])
    return across, -(-layout.height_px // layout.part_px[1])


def _as_bytes(
    directory: Directory, layout: Layout, plane: int, size: tuple[int, int, int]
) -> bytes:
    """Write a plane as a TIFF of its own, of grey bytes, with the same parts of data."""
    width_px, height_px, pixel_bytes = size
    across, down = _num_parts(layout)
    num_parts = across * down
    offsets, lengths = _parts(directory, layout, num_parts)
    chosen = slice(plane * num_parts, (plane + 1) * num_parts)
    data = [
        directory.content[start : start + length]
        for start, length in zip(offsets[chosen], lengths[chosen], strict=True)
    ]
    width, part_width = width_px * pixel_bytes, layout.part_px[0] * pixel_bytes
    tags: dict[int, int | list[int]] = {
        tiff.WIDTH: width,
        tiff.HEIGHT: height_px,
        tiff.BITS: 8,
        tiff.COMPRESSION: layout.compression,
        tiff.PHOTOMETRIC: tiff_layout.BLACK_IS_ZERO,
        tiff.SAMPLES: 1,
    }
    starts = np.cumsum([8, *(len(block) for block in data)]).tolist()
    sizes = [len(block) for block in data]
    if layout.tiled:
        tags |= {tiff.TILE_WIDTH: part_width, tiff.TILE_HEIGHT: layout.part_px[1]}
        tags |= {tiff.TILE_OFFSETS: starts[:-1], tiff.TILE_BYTES: sizes}
    else:
        tags |= {tiff.ROWS_PER_STRIP: layout.part_px[1]}
        tags |= {tiff.STRIP_OFFSETS: starts[:-1], tiff.STRIP_BYTES: sizes}
    if starts[-1] > _LONG_MAX or width > _LONG_MAX:
        raise DecodeError(f"a TIFF page of {starts[-1]} bytes")
    return (
        b"II*\x00" + struct.pack("<I", starts[-1]) + b"".join(data) + _directory(tags, starts[-1])
    )


def _parts(directory: Directory, layout: Layout, num_parts: int) -> tuple[list[int], list[int]]:
    """Read where a page's strips or tiles are, and how long; uncompressed ones may leave it out."""
    num_planes = layout.num_samples if layout.planar else 1
    named = (
        (tiff.TILE_OFFSETS, tiff.TILE_BYTES)
        if layout.tiled
        else (tiff.STRIP_OFFSETS, tiff.STRIP_BYTES)
    )
    offsets, lengths = (directory.numbers(tag).tolist() for tag in named)
    expected = num_parts * num_planes
    if not lengths and layout.compression == tiff_layout.NONE:
        bits = layout.bits[0] if layout.planar else sum(layout.bits)
        lengths = [layout.part_px[0] * layout.part_px[1] * bits // 8] * expected
    if min(len(offsets), len(lengths)) < expected:
        raise DecodeError(f"a TIFF page with {len(offsets)} of {expected} strips or tiles")
    if any(start + 1 > len(directory.content) or start < 0 for start in offsets[:expected]):
        raise DecodeError(f"data of a TIFF page lie beyond its {len(directory.content)} bytes")
    return offsets[:expected], [max(length, 0) for length in lengths[:expected]]


def _directory(tags: Mapping[int, int | list[int]], offset: int) -> bytes:
    """Write a directory that stands at `offset`, with the long lists behind it."""
    entries, behind = b"", b""
    after = offset + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, list) else [value]
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if tag in {tiff.BITS, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.SAMPLES}:
            entries += struct.pack("<HHII", tag, _SHORT, 1, numbers[0])
        elif len(numbers) == 1:
            entries += struct.pack("<HHI", tag, _LONG, 1) + packed
        else:
            entries += struct.pack("<HHII", tag, _LONG, len(numbers), after + len(behind))
            behind += packed
    return struct.pack("<H", len(tags)) + entries + bytes(4) + behind
