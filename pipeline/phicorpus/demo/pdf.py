"""Decks as PDF: real text, charts as vectors, the same layout as `decks.render_slide`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from phicorpus.demo.decks import SLIDE_SIZE, Deck, draw_slide
from phicorpus.demo.surface import INK, Align, Colour, Point
from phicorpus.errors import ConfigError

_ASCENT = 0.95  # of the size: from the top of a line to its baseline


class PdfSurface:
    """Draw on a page of a reportlab canvas, with Helvetica, which every PDF reader has."""

    def __init__(self, canvas: Any, size: tuple[int, int]) -> None:  # noqa: ANN401 - untyped
        self.width, self.height = float(size[0]), float(size[1])
        self._canvas = canvas

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._canvas.setFillColorRGB(*(c / 255 for c in fill))
        self._canvas.drawPath(self._path(points, close=True), stroke=0, fill=1)

    def path(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        self._canvas.setStrokeColorRGB(*(c / 255 for c in colour))
        self._canvas.setLineWidth(thickness)
        self._canvas.drawPath(self._path(points, close=False), stroke=1, fill=0)

    def text_width(self, text: str, size: float, *, bold: bool = False) -> float:
        return float(self._canvas.stringWidth(text, self._font(bold=bold), size))

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
        self._canvas.setFillColorRGB(*(c / 255 for c in colour))
        self._canvas.setFont(self._font(bold=bold), size)
        draw = {
            "left": self._canvas.drawString,
            "centre": self._canvas.drawCentredString,
            "right": self._canvas.drawRightString,
        }[align]
        draw(at[0], self.height - at[1] - _ASCENT * size, text)

    def _path(self, points: Sequence[Point], *, close: bool) -> Any:  # noqa: ANN401 - untyped
        path = self._canvas.beginPath()
        (x, y), *rest = points
        path.moveTo(x, self.height - y)
        for x, y in rest:
            path.lineTo(x, self.height - y)
        if close:
            path.close()
        return path

    @staticmethod
    def _font(*, bold: bool) -> str:
        return "Helvetica-Bold" if bold else "Helvetica"


def write_pdf(deck: Deck) -> bytes:
    """Write a deck as PDF, one page per slide, byte for byte the same for the same deck.

    Raises:
        ConfigError: reportlab is not installed.
    """
    try:
        from reportlab.pdfgen.canvas import Canvas  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "the demo's PDF decks need reportlab: pip install 'phicorpus[demo]'"
        ) from error

    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=SLIDE_SIZE, invariant=1)
    canvas.setTitle(deck.slides[0].page.title)
    canvas.setAuthor("phicorpus demo")
    for slide in deck.slides:
        draw_slide(PdfSurface(canvas, SLIDE_SIZE), slide, deck.accent)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()
