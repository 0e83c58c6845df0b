"""Read a TIFF's directories: what its pages are, before any decoder sees them.

A TIFF can arrange its samples in more ways than Pillow reads rightly; some it turns into noise or
negatives without a word. So the tags decide first: `Layout.reader` names who reads a page.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from phicorpus.errors import DecodeError, LimitExceeded, SegmentError
from phicorpus.media.images.tiff_layout import CMYK, NONE, OLD_JPEG, RGB, UINT, YCBCR, Layout

# Tags of TIFF 6.0; of its supplements; of DNG 1.6; and Exif 2.3's Orientation.
NEW_SUBFILE_TYPE: Final = 254
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES = 266, 273, 274, 277
ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
SUB_DIRECTORIES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 330, 332, 338, 339
SUBSAMPLING, ICC_PROFILE, DNG_VERSION = 530, 34675, 50706

_RAW_PHOTOMETRICS = {32803, 34892}

_TYPES: Mapping[int, str] = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_TYPE_BYTES: Mapping[int, int] = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_BIG = {b"+\x00", b"\x00+"}  # BigTIFF
_MAX_VALUES = 64  # of a tag that describes the samples
_MAX_SUB_DIRECTORIES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Where a tag's values are."""

    type: int
    count: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One directory of a TIFF."""

    content: bytes
    offset: int
    order: Literal["<", ">"]
    fields: Mapping[int, Field]

    def numbers(self, tag: int) -> npt.NDArray[np.int64]:
        """Read a tag's whole numbers; none where it is missing.

        Raises:
            DecodeError: they are of another type, or beyond the file.
        """
        field = self.fields.get(tag)
        if field is None:
            return np.zeros(0, np.int64)
        kind = _TYPES.get(field.type)
        if kind is None:
            raise DecodeError(f"TIFF tag {tag} is of type {field.type}, not whole numbers")
        end = field.offset + field.count * _TYPE_BYTES[field.type]
        if end > len(self.content):
            raise DecodeError(f"TIFF tag {tag} ends at byte {end} of {len(self.content)}")
        values = np.frombuffer(self.content, np.dtype(self.order + kind), field.count, field.offset)
        return values.astype(np.int64)

    def few(self, tag: int, *default: int) -> tuple[int, ...]:
        """Read a tag of few values.

        Raises:
            DecodeError: as `numbers`, or there are many.
        """
        field = self.fields.get(tag)
        if field is None or not field.count:
            return default
        if field.count > _MAX_VALUES:
            raise DecodeError(f"TIFF tag {tag} has {field.count} values")
        return tuple(int(value) for value in self.numbers(tag))

    def one(self, tag: int, default: int) -> int:
        return self.few(tag, default)[0]

    @property
    def is_big(self) -> bool:
        return self.content[2:4] in _BIG

    @property
    def icc_profile(self) -> bytes | None:
        field = self.fields.get(ICC_PROFILE)
        if field is None or field.type not in {1, 7}:
            return None
        return self.content[field.offset : field.offset + field.count]

    @property
    def is_reduced(self) -> bool:
        """Return whether it is a smaller copy of another picture: bit 0 of NewSubfileType."""
        return bool(self.one(NEW_SUBFILE_TYPE, 0) & 1)

    @property
    def is_raw(self) -> bool:
        """Return whether it holds, or belongs to, a camera's sensor data."""
        return DNG_VERSION in self.fields or self.one(PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS

    @cached_property
    def layout(self) -> Layout:
        """Read how its samples are arranged.

        Raises:
            DecodeError: a tag is missing, or has a value that cannot be.
        """
        if not {WIDTH, HEIGHT} <= set(self.fields):
            raise DecodeError("a TIFF directory without width and height")
        compression = self.one(COMPRESSION, NONE)
        photometric = self.one(PHOTOMETRIC, 0)
        if compression == OLD_JPEG and photometric in {RGB, YCBCR}:
            num_samples = self.one(SAMPLES, 3)
        else:
            num_samples = self.one(SAMPLES, 1)
        if not 0 < num_samples <= _MAX_VALUES:
            raise DecodeError(f"a TIFF of {num_samples} samples a pixel")
        size = self.one(WIDTH, 0), self.one(HEIGHT, 0)
        tiled = TILE_OFFSETS in self.fields
        if tiled:
            part_px = self.one(TILE_WIDTH, 0), self.one(TILE_HEIGHT, 0)
        else:
            part_px = size[0], min(self.one(ROWS_PER_STRIP, size[1]), size[1])
        if min(*size, *part_px) < 1:
            raise DecodeError(f"a TIFF of {size[0]} x {size[1]} pixels in parts of {part_px}")
        parts = self.fields.get(TILE_OFFSETS if tiled else STRIP_OFFSETS)
        return Layout(
            width_px=size[0],
            height_px=size[1],
            bits=_per_sample(self.few(BITS, 1), num_samples),
            photometric=photometric,
            planar=self.one(PLANAR, 1) == 2 and num_samples > 1,  # noqa: PLR2004 - TIFF 6.0
            formats=_per_sample(self.few(SAMPLE_FORMAT, UINT), num_samples),
            extra=self.few(EXTRA_SAMPLES),
            compression=compression,
            predictor=self.one(PREDICTOR, 1) if compression != NONE else 1,
            fill_order=self.one(FILL_ORDER, 1),
            ink_set=self.one(INK_SET, 1) if photometric == CMYK else 1,
            subsampling=self.few(SUBSAMPLING, 2, 2) if photometric == YCBCR else (1, 1),
            part_px=part_px,
            num_parts=parts.count if parts else 0,
            tiled=tiled,
            order=self.order,
            big=self.is_big,
        )


def directories(content: bytes, max_directories: int) -> Iterator[Directory | SegmentError]:
    """Read the chain of a TIFF's directories; each costs the same, whatever number it has.

    Yields:
        Directories; at last a DecodeError where the chain is broken. A chain that comes back to
        a directory ends there.

    Raises:
        LimitExceeded: more than `images.max_frames`, reduced copies among them.
    """
    order, big, offset = _header(content)
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) == max_directories:
            raise LimitExceeded(
                f"images.max_frames: more than {max_directories} pages, thumbnails counted"
            )
        seen.add(offset)
        try:
            directory, offset = _directory(content, offset, order, big=big)
        except (DecodeError, struct.error) as error:
            yield DecodeError(f"broken TIFF directory {len(seen)} at byte {offset}: {error}")
            return
        yield directory


def sub_directories(parent: Directory) -> Iterator[Directory]:
    """Read the first of the directories below one, as far as they are whole."""
    try:
        offsets = parent.few(SUB_DIRECTORIES)[:_MAX_SUB_DIRECTORIES]
    except DecodeError:
        return
    for offset in offsets:
        try:
            yield _directory(parent.content, offset, parent.order, big=parent.is_big)[0]
        except (DecodeError, struct.error):
            continue


def _header(content: bytes) -> tuple[Literal["<", ">"], bool, int]:
    order: Literal["<", ">"] = "<" if content[:2] == b"II" else ">"
    try:
        version: int = struct.unpack_from(order + "H", content, 2)[0]
        big = version == 43  # noqa: PLR2004 - BigTIFF
        offset: int = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    except struct.error as error:
        raise DecodeError(f"a TIFF of {len(content)} bytes") from error
    if not offset:
        raise DecodeError("a TIFF without pages")
    return order, big, offset


def _directory(
    content: bytes, offset: int, order: Literal["<", ">"], *, big: bool
) -> tuple[Directory, int]:
    """Read the directory at an offset, and where the next one is; 0 for none."""
    if offset >= len(content):
        raise DecodeError(f"the file has {len(content)} bytes")
    count_format, entry_format, next_format = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline_bytes = 8 if big else 4
    num_entries: int = struct.unpack_from(order + count_format, content, offset)[0]
    at = offset + struct.calcsize("=" + count_format)
    entry_bytes = struct.calcsize("=" + entry_format) + inline_bytes
    if at + num_entries * entry_bytes > len(content):
        raise DecodeError(f"it announces {num_entries} tags and is cut off")
    fields: dict[int, Field] = {}
    for number in range(min(num_entries, 0xFFFF)):
        start = at + number * entry_bytes
        tag, kind, count = struct.unpack_from(order + entry_format, content, start)
        value = start + entry_bytes - inline_bytes
        if count * _TYPE_BYTES.get(kind, 1) > inline_bytes:
            value = struct.unpack_from(order + next_format, content, value)[0]
        field = Field(type=kind, count=count, offset=value)
        if tag in _DECIDING and fields.get(tag, field) != field:
            raise DecodeError(f"tag {tag} is there twice")
        fields[tag] = field
    end = at + num_entries * entry_bytes
    following = (
        int(struct.unpack_from(order + next_format, content, end)[0])
        if end + inline_bytes <= len(content)
        else 0
    )
    return Directory(content=content, offset=offset, order=order, fields=fields), following


_DECIDING = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA_SAMPLES}
_DECIDING |= {ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, STRIP_OFFSETS, SAMPLE_FORMAT}


def _per_sample(values: tuple[int, ...], num_samples: int) -> tuple[int, ...]:
    """Return one value per sample: some writers store one for all of them."""
    return values * num_samples if len(values) == 1 else values[:num_samples]


class _Patched(io.BytesIO):
    """A file with other bytes in some places, that is not copied."""

    def __init__(self, content: bytes, patches: Mapping[int, bytes]) -> None:
        super().__init__(content)
        self._patches = patches

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        block = super().read(size)
        for start, patch in self._patches.items():
            first, last = max(start, at), min(start + len(patch), at + len(block))
            if first < last:
                kept = block[: first - at], patch[first - start : last - start]
                block = b"".join((*kept, block[last - at :]))
        return block


def opened_at(page: Directory) -> io.BytesIO:
    """Open the file so that Pillow takes this page for its first, without a copy of the file.

    Pillow's own `seek` looks through all pages before it, and has to know their layouts. And a
    page of one sample is called contiguous: as planar, Pillow takes its white for black.
    """
    start, kind = (8, "Q") if page.is_big else (4, "I")
    patches = {start: struct.pack(page.order + kind, page.offset)}
    planar = page.fields.get(PLANAR)
    if planar is not None and not page.layout.planar:
        size = _TYPE_BYTES.get(planar.type, 0)
        patches[planar.offset] = (1).to_bytes(size, "little" if page.order == "<" else "big")
    return _Patched(page.content, patches)
