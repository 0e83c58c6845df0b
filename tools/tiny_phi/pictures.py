"""Pictures to learn from: the demo's own pages, charts, slides and scenes, with dense labels."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from phicorpus.demo import charts, decks, pages, scenes, words
from phicorpus.demo.surface import Fonts, ImageSurface, PlacedText
from tools.tiny_phi import vocabulary

NO_CHART = "There is no chart."
_KIND_PHRASES = {"bar": "bar chart", "line": "line chart", "pie": "pie chart"}
_FOLDER = Path("/usr/share/fonts/truetype")
_FONTS: tuple[Fonts, ...] = tuple(
    (str(_FOLDER / f"{name}-Regular.ttf"), str(_FOLDER / f"{name}-Bold.ttf"))
    for name in ("liberation/LiberationSans", "crosextra/Carlito")
    if (_FOLDER / f"{name}-Bold.ttf").exists()
)
_SCRAMBLED = 0.2


@dataclass(frozen=True, slots=True)
class Mark:
    """A word and where it starts, in pixels.

    A thing's colour and shape are left and right of its centre, as if they were written there.
    """

    word: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture will look like, and what is on it.

    Attributes:
        kind: letter, list, table, bar, line, pie, or a scene's place.
        answers: By task: ocr, chart, caption.
        texts: For labels of characters.
    """

    surface: ImageSurface
    kind: str
    marks: tuple[Mark, ...]
    answers: Mapping[str, str]
    texts: tuple[PlacedText, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.surface.width), int(self.surface.height)


def sample(rng: np.random.Generator) -> Picture:
    """Make up a picture of any kind."""
    drawn = rng.random()
    if drawn < 0.36:
        return _page(rng)
    if drawn < 0.56:
        return _chart(rng)
    if drawn < 0.68:
        return _slide(rng)
    return _scene(rng)


def draw(rng: np.random.Generator, picture: Picture) -> Image.Image:
    """Draw a picture, with the losses that files bring: JPEG, grey."""
    image = picture.surface.finish().image
    chance = rng.random()
    if chance < 0.12 and picture.kind not in scenes.PLACES:
        return image.convert("L").convert("RGB")
    if chance < 0.3:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return Image.open(buffer).convert("RGB")
    return image


def _fonts(rng: np.random.Generator) -> Fonts | None:
    if not _FONTS or rng.random() < 0.6:
        return None
    return _FONTS[int(rng.integers(len(_FONTS)))]


def _page(rng: np.random.Generator) -> Picture:
    while True:
        kind = words.choose(rng, pages.PAGE_KINDS)
        page = pages.sample_page(rng, kind)
        if rng.random() < _SCRAMBLED:
            page = _scramble(rng, page)
        size = pages.PAGE_SIZES[int(rng.integers(2))]
        try:
            surface = pages.lay_out_page(rng, page, size, fonts=_fonts(rng), supersampling=1)
        except ValueError:
            continue
        return _of_page(surface, page, kind)


def _scramble(rng: np.random.Generator, page: pages.Page) -> pages.Page:
    """Put random words in the places of a page's words, so that reading is not guessing."""
    pool = vocabulary.canonical_words()

    def scrambled(text: str) -> str:
        made: list[str] = []
        for old in text.split():
            word = words.choose(rng, pool)
            while word == "-" or len(word) > len(old) + 2:
                word = words.choose(rng, pool)
            word = word.capitalize() if old[0].isupper() else word
            made.append(word + old[len(old.rstrip(".")) :])
        return " ".join(made)

    return pages.Page(
        title=scrambled(page.title),
        paragraphs=tuple(map(scrambled, page.paragraphs)),
        items=tuple(map(scrambled, page.items)),
        table=tuple(tuple(map(scrambled, row)) for row in page.table),
    )


def _of_page(surface: ImageSurface, page: pages.Page, kind: str) -> Picture:
    texts = surface.placed()
    answers = {
        "ocr": page.to_text(),
        "chart": NO_CHART,
        "caption": f"A {kind} titled {page.title}.",
    }
    marks = (*_words(texts), *_bullets(texts, page.items))
    return Picture(surface, kind, marks, answers, texts)


def _words(texts: Sequence[PlacedText]) -> Iterator[Mark]:
    for placed in texts:
        start = 0
        for word in placed.text.split(" "):
            middle = (placed.top + placed.bottom) / 2
            yield Mark(word.strip(".,"), placed.edges[start], middle)
            start += len(word) + 1


def _bullets(texts: Sequence[PlacedText], items: Sequence[str]) -> Iterator[Mark]:
    """Mark the bullet before the first line of each item."""
    pending = list(items)
    rest = ""
    for placed in texts[-sum(len(item.split()) for item in items) or len(texts) :]:
        if rest.startswith(placed.text):
            rest = rest[len(placed.text) :].strip()
        elif pending and pending[0].startswith(placed.text):
            rest = pending.pop(0)[len(placed.text) :].strip()
            size = (placed.bottom - placed.top) / 1.2
            middle = (placed.top + placed.bottom) / 2
            yield Mark("-", placed.left - 0.9 * size, middle)


def _chart(rng: np.random.Generator) -> Picture:
    chart = charts.sample_chart(rng)
    size = charts.CHART_SIZES[int(rng.integers(2))]
    surface = ImageSurface(size, fonts=_fonts(rng), supersampling=1)
    charts.draw_whole_chart(surface, chart)
    return _of_chart(surface, chart)


def _of_chart(surface: ImageSurface, chart: charts.ChartData) -> Picture:
    texts = surface.placed()
    answers = {
        "ocr": chart.to_text(),
        "chart": chart.to_markdown(),
        "caption": f"A {_KIND_PHRASES[chart.kind]} titled {chart.title}.",
    }
    return Picture(surface, chart.kind, tuple(_words(texts)), answers, texts)


def _slide(rng: np.random.Generator) -> Picture:
    deck = decks.sample_deck(rng, num_slides=4)
    slide = deck.slides[int(rng.integers(4))]
    surface = ImageSurface((448, 392), fonts=_fonts(rng), supersampling=1)
    decks.draw_slide(surface, slide, deck.accent)
    if slide.chart is not None:
        return _of_chart(surface, slide.chart)
    return _of_page(surface, slide.page, "table" if slide.page.table else "list")


def _scene(rng: np.random.Generator) -> Picture:
    scene = scenes.sample_scene(rng)
    surface = ImageSurface((448, 448), supersampling=1)
    spots = scenes.arrange(rng, scene)
    scenes.draw_things(surface, scene, spots)
    marks = [
        Mark(word, spot.x * 448 + aside, spot.y * 448)
        for spot in spots
        for aside, word in ((-28, spot.thing.colour), (28, spot.thing.shape))
    ]
    answers = {"ocr": "", "chart": NO_CHART, "caption": _in_reading_order(scene).caption()}
    return Picture(surface, scene.place, tuple(marks), answers, ())


def _in_reading_order(scene: scenes.Scene) -> scenes.Scene:
    """Name what is above or left first: of two sentences that are true, one is to be learned."""
    turned = {"below": "above", "right of": "left of"}.get(scene.relation or "")
    if turned is None:
        return scene
    return replace(scene, things=scene.things[::-1], relation=turned)
