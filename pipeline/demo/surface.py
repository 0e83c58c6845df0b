"""What charts, slides and pages are drawn on.

One small interface, so that one layout serves both pixels (`ImageSurface`) and vectors
(`pipeline.demo.pdf.PdfSurface`).
Coordinates are in pixels (or points) from the top left corner, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Align = Literal["left", "centre", "right"]

WHITE: Colour = (255, 255, 255)
INK: Colour = (34, 40, 49)
GREY: Colour = (120, 128, 138)
PALE: Colour = (222, 226, 232)
PALETTE: tuple[Colour, ...] = (
    (47, 104, 178),
    (226, 125, 47),
    (61, 146, 98),
    (192, 68, 76),
    (124, 94, 168),
    (176, 134, 24),
)


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A run of text and where it was drawn.

    Attributes:
        text: One line, without line breaks.
        left, top, right, bottom: Box in pixels; top and bottom are the font's ascent and descent.
        edges: Left edge of each character in pixels, and the right edge of the last:
            len(text) + 1 numbers. Training labels image patches with characters by these.
    """

    text: str
    left: float
    top: float
    right: float
    bottom: float
    edges: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture and every text on it, in drawing order."""

    image: Image.Image
    texts: tuple[PlacedText, ...]


class Surface(Protocol):
    """Something to draw on."""

    width: float
    height: float

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fill a polygon."""
        ...

    def path(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        """Stroke an open path."""
        ...

    def text_width(self, text: str, size: float, *, bold: bool = False) -> float:
        """Measure one line of text."""
        ...

    def text(
        self,
        at: Point,
        text: str,
        size: float,
        *,
        colour: Colour = INK,
        align: Align = "left",
        bold: bool = False,
    ) -> None:
        """Draw one line; `at` is the top of the line at its left end, centre or right end."""
        ...


def rectangle(surface: Surface, box: Box, fill: Colour) -> None:
    """Fill an upright rectangle (left, top, right, bottom)."""
    left, top, right, bottom = box
    surface.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)


def ellipse(surface: Surface, box: Box, fill: Colour) -> None:
    """Fill an ellipse that fits a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    centre = ((left + right) / 2, (top + bottom) / 2)
    surface.polygon(arc(centre, ((right - left) / 2, (bottom - top) / 2), (0.0, 1.0)), fill)


def arc(centre: Point, radii: Point, turns: Point) -> list[Point]:
    """Points on an ellipse between two turns (0 is the top, clockwise, 1 is a whole turn)."""
    start, end = turns
    num = max(3, round(96 * (end - start)))
    angles = [2 * math.pi * (start + (end - start) * i / num) for i in range(num + 1)]
    return [
        (centre[0] + radii[0] * math.sin(a), centre[1] - radii[1] * math.cos(a)) for a in angles
    ]


def wrap(
    surface: Surface, text: str, size: float, width: float, *, bold: bool = False
) -> list[str]:
    """Break a text at spaces into lines that fit a width; a longer word gets its own line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and surface.text_width(longer, size, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=128)
def load_font(size_px: int, path: str | None = None) -> ImageFont.FreeTypeFont:
    """Load Pillow's built-in font (Aileron), or the font file at `path`, once per size."""
    if path is not None:
        return ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType: it has no scalable font")
    return font


class ImageSurface:
    """Draw on an RGB picture: shapes smoothed by supersampling, text on top of all shapes."""

    _SCALE = 3

    def __init__(
        self, size: tuple[int, int], *, background: Colour = WHITE, font_path: str | None = None
    ) -> None:
        self.width, self.height = float(size[0]), float(size[1])
        self._font_path = font_path
        self._large = Image.new("RGB", (size[0] * self._SCALE, size[1] * self._SCALE), background)
        self._draw = ImageDraw.Draw(self._large)
        self._texts: list[tuple[PlacedText, int, Colour, bool]] = []

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon([(x * self._SCALE, y * self._SCALE) for x, y in points], fill=fill)

    def path(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        scaled = [(x * self._SCALE, y * self._SCALE) for x, y in points]
        width = max(1, round(thickness * self._SCALE))
        self._draw.line(scaled, fill=colour, width=width, joint="curve")

    def text_width(self, text: str, size: float, *, bold: bool = False) -> float:
        extra = 2 * self._stroke(size) if bold else 0.0
        return load_font(round(size), self._font_path).getlength(text) + extra

    def text(
        self,
        at: Point,
        text: str,
        size: float,
        *,
        colour: Colour = INK,
        align: Align = "left",
        bold: bool = False,
    ) -> None:
        size_px = round(size)
        font = load_font(size_px, self._font_path)
        width = self.text_width(text, size, bold=bold)
        left = at[0] - {"left": 0.0, "centre": width / 2, "right": width}[align]
        ascent, descent = font.getmetrics()
        edges = tuple(left + font.getlength(text[:i]) for i in range(len(text) + 1))
        bottom = at[1] + ascent + descent
        placed = PlacedText(text, left, at[1], left + width, bottom, edges)
        self._texts.append((placed, size_px, colour, bold))

    def finish(self) -> Rendered:
        """Return the picture with its texts."""
        image = self._large.reduce(self._SCALE)
        draw = ImageDraw.Draw(image)
        for placed, size_px, colour, bold in self._texts:
            draw.text(
                (placed.left, placed.top),
                placed.text,
                fill=colour,
                font=load_font(size_px, self._font_path),
                stroke_width=self._stroke(size_px) if bold else 0,
                stroke_fill=colour if bold else None,
            )
        return Rendered(image, tuple(placed for placed, *_ in self._texts))

    @staticmethod
    def _stroke(size: float) -> float:
        return size / 50
