"""The surfaces that charts, slides and pages are drawn on.

One small interface, so that one layout serves both pixels (`ImageSurface`) and vectors
(`phicorpus.demo.pdf.PdfSurface`).
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
Fonts = tuple[str, str]
"""Files of the regular and the bold font."""

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

    def __init__(
        self,
        size: tuple[int, int],
        *,
        background: Colour = WHITE,
        fonts: Fonts | None = None,
        supersampling: int = 3,
    ) -> None:
        self.width, self.height = float(size[0]), float(size[1])
        self._size, self._background, self._fonts = size, background, fonts
        self._scale = supersampling
        self._shapes: list[tuple[Sequence[Point], Colour, float | None]] = []
        self._texts: list[tuple[str, Point, float, int, Colour, bool]] = []

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._shapes.append((points, fill, None))

    def path(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        self._shapes.append((points, colour, thickness))

    def text_width(self, text: str, size: float, *, bold: bool = False) -> float:
        extra = 2 * self._stroke(size) if bold else 0.0
        return self._font(round(size), bold=bold).getlength(text) + extra

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
        width = self.text_width(text, size, bold=bold)
        left = at[0] - {"left": 0.0, "centre": width / 2, "right": width}[align]
        self._texts.append((text, (left, at[1]), width, round(size), colour, bold))

    def finish(self) -> Rendered:
        """Make the picture. Nothing is drawn before, so a layout that does not fit costs little."""
        width, height = self._size
        large = Image.new("RGB", (width * self._scale, height * self._scale), self._background)
        shape = ImageDraw.Draw(large)
        for points, colour, thickness in self._shapes:
            scaled = [(x * self._scale, y * self._scale) for x, y in points]
            if thickness is None:
                shape.polygon(scaled, fill=colour)
            else:
                num = max(1, round(thickness * self._scale))
                shape.line(scaled, fill=colour, width=num, joint="curve")
        image = large.reduce(self._scale)
        draw = ImageDraw.Draw(image)
        for text, at, _, size_px, colour, bold in self._texts:
            font = self._font(size_px, bold=bold)
            stroke = self._stroke(size_px) if bold else 0
            draw.text(at, text, colour, font, stroke_width=stroke, stroke_fill=colour)
        return Rendered(image, self.placed())

    def placed(self) -> tuple[PlacedText, ...]:
        """Return where every text stands; needs no picture."""
        placed: list[PlacedText] = []
        for text, (left, top), text_width, size_px, _, bold in self._texts:
            font = self._font(size_px, bold=bold)
            edges = tuple(left + font.getlength(text[:i]) for i in range(len(text) + 1))
            bottom = top + sum(font.getmetrics())
            placed.append(PlacedText(text, left, top, left + text_width, bottom, edges))
        return tuple(placed)

    def _font(self, size_px: int, *, bold: bool) -> ImageFont.FreeTypeFont:
        return load_font(size_px, self._fonts[bold] if self._fonts else None)

    def _stroke(self, size: float) -> float:
        """Return how much thicker bold is drawn: the built-in font has no bold of its own."""
        return 0.0 if self._fonts else size / 50
