"""TIFFs of every layout, with pixels that are known: written here, byte by byte."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

NONE, LZW, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 5, 8, 32773, 32946
GREY_INVERTED, GREY, RGB, CMYK = 0, 1, 2, 5
COLOURS = {GREY_INVERTED: 1, GREY: 1, RGB: 3, CMYK: 4}
WIDTH, HEIGHT = 53, 37
_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_TYPES = {"B": 1, "H": 3, "I": 4, "Q": 16}


@dataclass(frozen=True, kw_only=True)
class ATiff:
    """One layout; the defaults are the most usual one."""

    photometric: int = RGB
    kind: str = "u1"
    extra: tuple[int, ...] = ()
    planar: bool = False
    compression: int = NONE
    order: Literal["<", ">"] = "<"
    tiled: bool = False
    predictor: int = 1
    big: bool = False

    @property
    def num_samples(self) -> int:
        return COLOURS[self.photometric] + len(self.extra)

    def content(self) -> bytes:
        return written([self.page()], self.order, big=self.big)

    def page(self) -> list[tuple[int, str, Sequence[int] | bytes]]:
        """Make the tags; bytes as a value are put behind, and pointed at."""
        values = samples(self)
        planes = [values] if not self.planar else np.split(values, self.num_samples, axis=2)
        parts = [self._packed(part) for plane in planes for part in self._parts(plane)]
        offsets, lengths = (324, 325) if self.tiled else (273, 279)
        shape = [(322, "I", [16]), (323, "I", [16])] if self.tiled else [(278, "I", [16])]
        bits = [np.dtype(self.kind).itemsize * 8] * self.num_samples
        sample_format = {"u": 1, "i": 2, "f": 3}[np.dtype(self.kind).kind]
        return [
            (256, "I", [WIDTH]),
            (257, "I", [HEIGHT]),
            (258, "H", bits),
            (259, "H", [self.compression]),
            (262, "H", [self.photometric]),
            (277, "H", [self.num_samples]),
            (284, "H", [2 if self.planar else 1]),
            (317, "H", [self.predictor]),
            *([(338, "H", list(self.extra))] if self.extra else []),
            *([(339, "H", [sample_format] * self.num_samples)] if self.kind != "u1" else []),
            *shape,
            (offsets, "I", parts),  # type: ignore[list-item]
            (lengths, "I", [len(part) for part in parts]),
        ]

    def _parts(self, plane: npt.NDArray) -> Iterator[npt.NDArray]:
        across = range(0, WIDTH, 16) if self.tiled else [0]
        for top, left in itertools.product(range(0, HEIGHT, 16), across):
            part = plane[top : top + 16, left : left + 16] if self.tiled else plane[top : top + 16]
            if self.tiled:
                fill = (16 - part.shape[0], 16 - part.shape[1])
                part = np.pad(part, ((0, fill[0]), (0, fill[1]), (0, 0)), mode="edge")
            yield part

    def _packed(self, part: npt.NDArray) -> bytes:
        if self.predictor == 2:
            whole = part.view(f"u{part.dtype.itemsize}")
            part = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
        if self.predictor == 3:
            swapped = part.astype(part.dtype.newbyteorder(">"))
            rows = np.frombuffer(swapped.tobytes(), np.uint8).reshape(
                part.shape[0], -1, part.dtype.itemsize
            )
            flat = rows.swapaxes(1, 2).reshape(part.shape[0], -1, part.shape[2])
            data = np.diff(flat, axis=1, prepend=np.zeros_like(flat[:, :1])).tobytes()
        else:
            data = part.astype(part.dtype.newbyteorder(self.order)).tobytes()
        return _COMPRESSED[self.compression](data, part.shape[0])


def samples(layout: ATiff) -> npt.NDArray:
    """Make samples that tell every channel, corner and tone apart; alpha is 255, 128 or 64."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    ramps = [x * 4 + 9, y * 5 + 20, 255 - x * 3 - y, (x * 7 + y * 11) % 256]
    channels = [ramp.astype(np.float64) for ramp in ramps[: COLOURS[layout.photometric]]]
    alpha = np.select([x < 20, x < 40], [255.0, 128.0], 64.0)
    if layout.extra == (1,):  # associated: multiplied
        channels = [np.floor(channel * alpha / 255) for channel in channels]
    stacked = np.stack([*channels, *([alpha] * len(layout.extra))], axis=2)
    kind = np.dtype(layout.kind)
    if kind.kind == "f":
        return (stacked / 255).astype(kind)
    whole = stacked * {1: 1, 2: 257, 4: 16843009}[kind.itemsize]
    return whole.astype(f"u{kind.itemsize}").view(kind)


def truth(layout: ATiff) -> npt.NDArray:
    """Say what the picture looks like on white, shape (height, width, 3)."""
    eight = samples(replace(layout, kind="u1")).astype(np.float64)
    colours = eight[..., : COLOURS[layout.photometric]]
    if layout.photometric == GREY_INVERTED:
        colours = 255 - colours
    if layout.photometric == CMYK:
        colours = (255 - colours[..., :3]) * (255 - colours[..., 3:]) / 255
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    if layout.photometric == CMYK or layout.extra in {(), (0,)}:
        return colours
    alpha = eight[..., -1:] / 255
    return colours * (1 if layout.extra == (1,) else alpha) + 255 * (1 - alpha)


def grid() -> Iterator[ATiff]:
    """Give the 8 and 16 bit layouts that writers in use make."""
    kinds = [(GREY, ()), (GREY_INVERTED, ()), (RGB, ()), (CMYK, ())]
    kinds += [(photometric, (extra,)) for photometric in (GREY, RGB) for extra in (0, 1, 2)]
    for (photometric, extra), kind, planar, order, tiled in itertools.product(
        kinds, ("u1", "u2"), (False, True), _ORDERS, (False, True)
    ):
        for compression, predictor in (
            *((NONE, 1), (PACKBITS, 1), (LZW, 1), (LZW, 2)),
            *((DEFLATE, 1), (DEFLATE, 2), (OLD_DEFLATE, 1)),
        ):
            yield ATiff(
                photometric=photometric,
                kind=kind,
                extra=extra,
                planar=planar,
                order=order,
                tiled=tiled,
                compression=compression,
                predictor=predictor,
            )


def written(
    pages: Sequence[Sequence[tuple[int, str, Sequence[int] | bytes | list[bytes]]]],
    order: str = "<",
    *,
    big: bool = False,
) -> bytes:
    """Write directories one after the other, each with its values and data before it."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        content = mark + struct.pack(order + "HHHQ", 43, 8, 0, 0)
    else:
        content = mark + struct.pack(order + "HI", 42, 0)
    pointer_at, word = (8, "Q") if big else (4, "I")
    for page in pages:
        entries = b""
        for tag, kind, value in sorted(page, key=lambda entry: entry[0]):
            numbers = []
            for number in value if isinstance(value, list) else list(value):
                if isinstance(number, bytes):
                    numbers.append(len(content))
                    content += number
                else:
                    numbers.append(number)
            data = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
            inline = 8 if big else 4
            if len(data) > inline:
                content += bytes(len(content) % 2)
                data, content = struct.pack(order + word, len(content)), content + data
            head = struct.pack(order + "HH" + word, tag, _TYPES[kind], len(numbers))
            entries += head + data.ljust(inline, b"\0")
        content += bytes(len(content) % 2)
        pointer = struct.pack(order + word, len(content))
        content = content[:pointer_at] + pointer + content[pointer_at + len(pointer) :]
        count = struct.pack(order + ("Q" if big else "H"), len(page))
        pointer_at = len(content) + len(count) + len(entries)
        content += count + entries + bytes(8 if big else 4)
    return content


def _lzw(data: bytes, _: int) -> bytes:
    """Write each byte as a code of its own, and clear the table before codes grow."""
    codes: list[int] = []
    for number, byte in enumerate(data):
        if number % 250 == 0:
            codes.append(256)
        codes.append(byte)
    codes.append(257)
    bits = "".join(f"{code:09b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _packbits(data: bytes, num_rows: int) -> bytes:
    row_bytes = len(data) // num_rows
    packed = b""
    for start in range(0, len(data), row_bytes):
        row = data[start : start + row_bytes]
        for at in range(0, len(row), 128):
            packed += bytes([len(row[at : at + 128]) - 1]) + row[at : at + 128]
    return packed


_COMPRESSED = {
    NONE: lambda data, _: data,
    LZW: _lzw,
    PACKBITS: _packbits,
    DEFLATE: lambda data, _: zlib.compress(data),
    OLD_DEFLATE: lambda data, _: zlib.compress(data),
}
