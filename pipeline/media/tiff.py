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

from pipeline.errors import DecodeError, LimitExceeded, SegmentError

# Tags of TIFF 6.0; of its supplements; of DNG 1.6; and Exif 2.3's Orientation.
NEW_SUBFILE_TYPE: Final = 254
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES = 266, 273, 274, 277
ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
SUB_DIRECTORIES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 330, 332, 338, 339
SUBSAMPLING, ICC_PROFILE, DNG_VERSION = 530, 34675, 50706

NONE, OLD_JPEG, JPEG, WEBP = 1, 6, 7, 50001
FAX: Final = {2, 3, 4}
BYTEWISE: Final = {NONE, 5, 8, 32773, 32946, 34925, 50000}
"""Compressions of plain bytes: LZW, Deflate (two numbers), PackBits, LZMA and Zstandard."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS: Final[Mapping[int, int]] = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
UINT, INT, FLOAT = 1, 2, 3

_PHOTOMETRIC_NAMES = {0: "WhiteIsZero", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK"}
_PHOTOMETRIC_NAMES |= {6: "YCbCr", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32844: "LogL"}
_PHOTOMETRIC_NAMES |= {32845: "LogLuv", 32803: "colour filter array", 34892: "linear raw"}
_COMPRESSION_NAMES = {1: "none", 2: "CCITT RLE", 3: "CCITT G3", 4: "CCITT G4", 5: "LZW"}
_COMPRESSION_NAMES |= {6: "old JPEG", 7: "JPEG", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_COMPRESSION_NAMES |= {34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC"}
_COMPRESSION_NAMES |= {34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_COMPRESSION_NAMES |= {34676: "SGILog", 34677: "SGILog24", 32809: "ThunderScan", 34661: "JBIG"}
_RAW_PHOTOMETRICS = {32803, 34892}
_FORMAT_NAMES = {UINT: "unsigned", INT: "signed", FLOAT: "float", 4: "undefined", 5: "complex int"}

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
_BYTES_PER_PART = 250  # what Pillow was measured to hold for a strip or tile
_BYTES_PER_DECODED = 4  # of samples that are read as bytes: the decoder's, numpy's and two copies

Reader = Literal["pillow", "samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Where a tag's values are."""

    type: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a page's samples are arranged."""

    width_px: int
    height_px: int
    bits: tuple[int, ...]
    photometric: int
    planar: bool
    formats: tuple[int, ...]
    extra: tuple[int, ...]
    compression: int
    predictor: int
    fill_order: int
    ink_set: int
    subsampling: tuple[int, ...]
    part_px: tuple[int, int]
    num_parts: int
    tiled: bool
    order: Literal["<", ">"]
    big: bool

    @property
    def num_samples(self) -> int:
        return len(self.bits)

    @property
    def reader(self) -> Reader | None:
        """Name who reads this layout rightly; None where no one here does."""
        if _for_pillow(self):
            return "pillow"
        return "samples" if _for_samples(self) else None

    @property
    def needed_bytes(self) -> int:
        """Estimate what decoding allocates beside the picture: a part, and lists of parts."""
        width_px, height_px = self.part_px
        sample_bits = sum(self.bits)
        part_bytes = (width_px * sample_bits // 8 + 1) * height_px
        needed = part_bytes + self.num_parts * _BYTES_PER_PART
        if self.reader == "samples":
            across, down = -(-self.width_px // width_px), -(-self.height_px // height_px)
            whole = across * width_px * down * height_px * sample_bits // 8
            needed += whole * _BYTES_PER_DECODED
        return needed

    def __str__(self) -> str:
        formats = sorted({_FORMAT_NAMES.get(number, str(number)) for number in self.formats})
        bits = ",".join(map(str, self.bits[:8]))
        return (
            f"photometric {_named(self.photometric, _PHOTOMETRIC_NAMES)}, "
            f"{self.num_samples} samples of {bits} bits ({', '.join(formats)}), "
            f"extra samples {list(self.extra[:8])}, "
            f"{'planar' if self.planar else 'contiguous'}, "
            f"compression {_named(self.compression, _COMPRESSION_NAMES)}"
            f"{', big-endian BigTIFF' if self.big and self.order == '>' else ''}"
        )


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
        """Say whether it is a smaller copy of another picture: bit 0 of NewSubfileType."""
        return bool(self.one(NEW_SUBFILE_TYPE, 0) & 1)

    @property
    def is_raw(self) -> bool:
        """Say whether it holds, or belongs to, what a camera's sensor saw."""
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
            bits=_each(self.few(BITS, 1), num_samples),
            photometric=photometric,
            planar=self.one(PLANAR, 1) == 2 and num_samples > 1,  # noqa: PLR2004 - TIFF 6.0
            formats=_each(self.few(SAMPLE_FORMAT, UINT), num_samples),
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


def _each(values: tuple[int, ...], num_samples: int) -> tuple[int, ...]:
    """Give each sample its value: some writers say one for all of them."""
    return values * num_samples if len(values) == 1 else values[:num_samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """How Pillow reads one kind of pixel rightly.

    Attributes:
        compressions: In which it does.
        any_fill_order: Whether it turns reversed bits.
    """

    compressions: frozenset[int]
    any_fill_order: bool = False


_AS_BYTES = _Read(compressions=frozenset(BYTEWISE))
_ALSO_JPEG = _Read(compressions=frozenset(BYTEWISE | {JPEG}))
_SMALL = _Read(compressions=frozenset(BYTEWISE), any_fill_order=True)
_PILLOW: Final[Mapping[tuple[int, tuple[int, ...]], _Read]] = {
    **dict.fromkeys(
        ((grey, (1,)) for grey in (WHITE_IS_ZERO, BLACK_IS_ZERO)),
        _Read(compressions=frozenset(BYTEWISE | FAX), any_fill_order=True),
    ),
    **{(grey, (bits,)): _SMALL for grey in (WHITE_IS_ZERO, BLACK_IS_ZERO) for bits in (2, 4)},
    **{(PALETTE, (bits,)): _SMALL for bits in (1, 2, 4, 8)},
    **dict.fromkeys(
        ((grey, (8,)) for grey in (WHITE_IS_ZERO, BLACK_IS_ZERO)),
        _Read(compressions=_ALSO_JPEG.compressions, any_fill_order=True),
    ),
    (BLACK_IS_ZERO, (12,)): _Read(compressions=frozenset({NONE})),
    (BLACK_IS_ZERO, (16,)): _AS_BYTES,
    (BLACK_IS_ZERO, (8, 8)): _ALSO_JPEG,
    (PALETTE, (8, 8)): _AS_BYTES,
    (RGB, (8,) * 3): _Read(
        compressions=frozenset(BYTEWISE | {OLD_JPEG, JPEG, WEBP}), any_fill_order=True
    ),
    (RGB, (8,) * 4): _Read(compressions=frozenset(BYTEWISE | {JPEG, WEBP})),
    **{(RGB, (8,) * num_samples): _AS_BYTES for num_samples in (5, 6)},
    **{(RGB, (16,) * num_samples): _AS_BYTES for num_samples in (3, 4)},
    (CMYK, (8,) * 4): _ALSO_JPEG,
    (CMYK, (16,) * 4): _AS_BYTES,
    (YCBCR, (8,) * 3): _Read(compressions=frozenset(BYTEWISE | {OLD_JPEG, JPEG})),
    (LAB, (8,) * 3): _AS_BYTES,
}
"""By photometric interpretation and bits of a pixel; tested with pixels that are known."""

_NUM_COLOURS = {**COLOURS, PALETTE: 1, YCBCR: 3, LAB: 3}


def _for_pillow(layout: Layout) -> bool:
    """Say whether Pillow reads a layout rightly."""
    read = _PILLOW.get((layout.photometric, layout.bits))
    if read is None or set(layout.formats) != {UINT} or len(layout.formats) != layout.num_samples:
        return False
    if layout.planar:
        return layout.compression == JPEG and (layout.photometric, layout.bits) == (RGB, (8, 8, 8))
    num_extra = layout.num_samples - _NUM_COLOURS[layout.photometric]
    undeclared = not layout.extra and (layout.photometric, layout.bits) == (RGB, (8, 8, 8, 8))
    return (
        layout.compression in read.compressions
        and (layout.fill_order == 1 or read.any_fill_order)
        and (len(layout.extra) == num_extra or undeclared)
        and not any(layout.extra[1:])  # what has a meaning is the first of them
        and not (layout.big and layout.order == ">")
        and not (layout.bits == (12,) and layout.order == ">")
        and layout.ink_set == 1
        and (
            layout.photometric != YCBCR
            or layout.compression != NONE
            or layout.subsampling == (1, 1)
        )
    )


def _for_samples(layout: Layout) -> bool:
    """Say whether `tiff_samples` reads a layout."""
    colours = COLOURS.get(layout.photometric, 0)
    kind = set(zip(layout.bits, layout.formats, strict=False))
    return (
        colours > 0
        and layout.num_samples == len(layout.formats)
        and colours <= layout.num_samples <= colours + 1
        and len(layout.extra) <= layout.num_samples - colours
        and len(kind) == 1
        and kind <= _SAMPLE_KINDS
        and layout.compression in BYTEWISE
        and layout.fill_order == 1
        and (layout.photometric != CMYK or layout.ink_set == 1)
        and (layout.predictor in {1, 2} or (layout.predictor == 3 and layout.formats[0] == FLOAT))  # noqa: PLR2004
    )


_SAMPLE_KINDS = {(bits, kind) for bits in (8, 16, 32) for kind in (UINT, INT)}
_SAMPLE_KINDS |= {(bits, FLOAT) for bits in (16, 32, 64)}


def _named(number: int, names: Mapping[int, str]) -> str:
    return f"{number} ({names[number]})" if number in names else str(number)


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
