"""The layout of a TIFF page's samples, and the reader that reads it correctly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

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
_FORMAT_NAMES = {UINT: "unsigned", INT: "signed", FLOAT: "float", 4: "undefined", 5: "complex int"}

_BYTES_PER_PART = 250  # what Pillow was measured to hold for a strip or tile
_BYTES_PER_DECODED = 4  # of samples that are read as bytes: the decoder's, numpy's and two copies

Reader = Literal["pillow", "samples"]


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
        """Return the reader that reads this layout correctly; None where no one here does."""
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
    """Return whether Pillow reads a layout correctly."""
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
    """Return whether `tiff_samples` reads a layout."""
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
