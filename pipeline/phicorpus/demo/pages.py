"""Page-like pictures in large print: a title, and a note, a list or a small table."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from phicorpus.demo import words
from phicorpus.demo.surface import (
    GREY,
    INK,
    PALE,
    Colour,
    Fonts,
    ImageSurface,
    Rendered,
    Surface,
    ellipse,
    rectangle,
    wrap,
)

PAGE_KINDS = ("letter", "list", "table")
PAGE_SIZES = ((448, 448), (448, 392), (896, 896))
"""Width and height in pixels."""
LINE_PITCH = 1.5
"""From line to line, in text sizes."""
_INKS: tuple[Colour, ...] = (INK, (28, 54, 96), (88, 34, 38), (30, 70, 52))
_PAPERS: tuple[Colour, ...] = ((255, 255, 255), (252, 249, 240), (244, 247, 251))

Table = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The content of a page, in reading order; the first row of `table` is its head."""

    title: str
    paragraphs: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    table: Table = ()

    def to_text(self) -> str:
        r"""Write in reading order: blocks with a blank line between, items after "- ".

        Example:
            >>> Page(title="News", items=("Count the tea", "Open the mill")).to_text()
            'News\n\n- Count the tea\n- Open the mill'
        """
        blocks = [self.title, *self.paragraphs]
        if self.items:
            blocks.append("\n".join(f"- {item}" for item in self.items))
        if self.table:
            blocks.append("\n".join(" | ".join(row) for row in self.table))
        return "\n\n".join(blocks)

    def to_json(self) -> str:
        """Encode as one JSON object: title, paragraphs, items, table."""
        return json.dumps(
            {
                "title": self.title,
                "paragraphs": list(self.paragraphs),
                "items": list(self.items),
                "table": [list(row) for row in self.table],
            }
        )


def sample_page(rng: np.random.Generator, kind: str | None = None) -> Page:
    """Make up a page of a kind of `PAGE_KINDS`."""
    kind = kind or words.choose(rng, PAGE_KINDS)
    title = words.title(rng)
    if kind == "letter":
        return Page(title=title, paragraphs=(words.note(rng),))
    if kind == "list":
        return Page(title=title, items=words.items(rng, int(rng.integers(2, 5))))
    return Page(title=title, table=sample_table(rng, num_rows=int(rng.integers(2, 4))))


def sample_table(rng: np.random.Generator, num_rows: int = 3) -> Table:
    """Make up a table of goods against two months, with a head row and whole numbers."""
    months = words.choose_several(rng, words.MONTHS[2:7], 2)
    rows = [
        (name.capitalize(), *(str(words.numeral(rng)) for _ in months))
        for name in words.choose_several(rng, words.GOODS, num_rows)
    ]
    return (("Goods", *months), *rows)


def render_page(rng: np.random.Generator, page: Page, size: tuple[int, int]) -> Rendered:
    """Draw a page; see `lay_out_page`."""
    return lay_out_page(rng, page, size).finish()


def lay_out_page(
    rng: np.random.Generator,
    page: Page,
    size: tuple[int, int],
    *,
    fonts: Fonts | None = None,
    supersampling: int = 3,
) -> ImageSurface:
    """Lay a page out; chance picks paper, ink and print, the largest that fits.

    Args:
        rng: Source of chance for the look.
        page: What stands on it.
        size: Width and height in pixels.
        fonts: Instead of Pillow's built-in font.
        supersampling: How finely shapes are drawn.

    Raises:
        ValueError: the page does not fit.
    """
    paper = _PAPERS[int(rng.integers(len(_PAPERS)))]
    ink = _INKS[int(rng.integers(len(_INKS)))]
    banner = bool(rng.random() < 1 / 3)
    largest = float(rng.uniform(0.092, 0.104)) * size[0]
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8):
        text_size = largest * shrink
        surface = ImageSurface(size, background=paper, fonts=fonts, supersampling=supersampling)
        end = _draw(surface, page, ink, text_size, banner=banner)
        if end <= size[1] - 0.2 * text_size:
            return surface
    raise ValueError(f"page does not fit {size[0]} x {size[1]} px: {page.title!r}")


def draw_items(
    surface: Surface, items: tuple[str, ...], at: tuple[float, float], width: float, size: float
) -> float:
    """Draw a bulleted list; returns the y below it."""
    x, y = at
    for item in items:
        ellipse(surface, (x + 0.2 * size, y + 0.45 * size, x + 0.55 * size, y + 0.8 * size), GREY)
        for line in wrap(surface, item, size, width - 1.1 * size):
            surface.text((x + 1.1 * size, y), line, size)
            y += LINE_PITCH * size
    return y


def draw_table(
    surface: Surface, table: Table, at: tuple[float, float], width: float, size: float
) -> float:
    """Draw a table with a shaded head, columns of equal width; returns the y below it."""
    x, y = at
    height = 1.75 * size
    column = width / len(table[0])
    for number, row in enumerate(table):
        if number == 0:
            rectangle(surface, (x, y, x + width, y + height), PALE)
        for i, cell in enumerate(row):
            top = (x + column * i + 0.2 * size, y + 0.28 * size)
            surface.text(top, cell, size, bold=number == 0)
        y += height
        surface.path([(x, y), (x + width, y)], GREY, 0.05 * size)
    return y + 0.3 * size


def _draw(
    surface: ImageSurface, page: Page, ink: Colour, text_size: float, *, banner: bool
) -> float:
    """Draw a page and return the y below its last line, which may be off the page."""
    margin = 0.6 * text_size
    width = surface.width - 2 * margin
    title_size = 1.1 * text_size
    lines = wrap(surface, page.title, title_size, width, bold=True)
    widest = max(
        (surface.text_width(cell, text_size, bold=True) for row in page.table for cell in row),
        default=0.0,
    )
    if page.table and widest + 0.4 * text_size > width / len(page.table[0]):
        return surface.height + 1
    if banner:
        bottom = 0.6 * text_size + len(lines) * LINE_PITCH * title_size
        rectangle(surface, (0, 0, surface.width, bottom), ink)
    y = 0.5 * text_size
    for line in lines:
        colour = (255, 255, 255) if banner else ink
        surface.text((margin, y), line, title_size, colour=colour, bold=True)
        y += LINE_PITCH * title_size
    if not banner:
        surface.path([(margin, y), (surface.width - margin, y)], ink, 0.07 * text_size)
    y += 0.6 * text_size
    for paragraph in page.paragraphs:
        for line in wrap(surface, paragraph, text_size, width):
            surface.text((margin, y), line, text_size)
            y += LINE_PITCH * text_size
    if page.items:
        y = draw_items(surface, page.items, (margin, y), width, text_size)
    if page.table:
        y = draw_table(surface, page.table, (margin, y), width, text_size)
    return y
