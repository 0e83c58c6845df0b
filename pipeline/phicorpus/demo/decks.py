"""Slide decks: what they hold, and PPTX files of them with native text, tables, charts and notes.

The same deck as PDF: pipeline/phicorpus/demo/pdf.py.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from phicorpus.demo import words
from phicorpus.demo.charts import CHART_KINDS, ChartData, chart_colours, draw_chart, sample_chart
from phicorpus.demo.pages import Page, draw_items, draw_table, sample_table
from phicorpus.demo.surface import (
    PALE,
    PALETTE,
    WHITE,
    Colour,
    ImageSurface,
    Rendered,
    Surface,
    rectangle,
)

SLIDE_SIZE = (480, 420)
"""Width and height of a slide in points."""
_LONGEST_TITLE = 18

_EPOCH = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - OOXML times are written without a zone
_ZIP_TIME = (2026, 1, 1, 0, 0, 0)
_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """A slide: its words, at most one chart, and what is not on the slide itself."""

    page: Page
    chart: ChartData | None = None
    notes: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deck:
    """A deck of slides, and the look that they share."""

    slides: tuple[Slide, ...]
    accent: Colour = PALETTE[0]


def sample_deck(
    rng: np.random.Generator, *, num_slides: int | None = None, hidden: bool = False
) -> Deck:
    """Make up a deck: a list first, then charts, tables and lists in turn.

    Args:
        rng: Source of chance.
        num_slides: Default: 3 to 6.
        hidden: Whether the last but one slide is hidden.
    """
    num = num_slides or int(rng.integers(3, 7))
    kinds = ["list", *(("chart", "table", "list", "chart", "table")[:5] * num)][:num]
    num_charts = int(rng.integers(len(CHART_KINDS)))
    slides: list[Slide] = []
    for number, kind in enumerate(kinds):
        notes = words.sentence(rng) if rng.random() < 0.5 else None  # noqa: PLR2004
        is_hidden = hidden and number == num - 2
        if kind == "chart":
            chart = sample_chart(rng, CHART_KINDS[num_charts % len(CHART_KINDS)])
            num_charts += 1
            page = Page(title=chart.title)
            slides.append(Slide(page=page, chart=chart, notes=notes, hidden=is_hidden))
            continue
        if kind == "table":
            page = Page(title=_title(rng), table=sample_table(rng, num_rows=2))
        else:
            page = Page(title=_title(rng), items=words.items(rng, int(rng.integers(2, 4))))
        slides.append(Slide(page=page, notes=notes, hidden=is_hidden))
    return Deck(slides=tuple(slides), accent=PALETTE[int(rng.integers(5))])


def _title(rng: np.random.Generator) -> str:
    """Make a title that fits on one line of a slide."""
    title = words.title(rng)
    while len(title) > _LONGEST_TITLE:
        title = words.title(rng)
    return title


def draw_slide(surface: Surface, slide: Slide, accent: Colour) -> None:
    """Draw a slide over a whole surface: title, accent line, then list, table or chart."""
    width, height = surface.width, surface.height
    size = 0.088 * width
    margin = 0.05 * width
    rectangle(surface, (0, 0, width, height), WHITE)
    rectangle(surface, (0, 0, 0.015 * width, height), accent)
    surface.text((margin, 0.05 * height), slide.page.title, 1.1 * size, bold=True)
    rectangle(surface, (margin, 0.19 * height, margin + 0.1 * width, 0.2 * height), accent)
    top, right = 0.25 * height, width - margin
    if slide.chart is not None:
        box = (margin, 0.22 * height, right, 0.98 * height)
        draw_chart(surface, slide.chart, box, text_size=0.95 * size, with_title=False)
        return
    top = draw_items(surface, slide.page.items, (margin, top), right - margin, size)
    if slide.page.table:
        draw_table(surface, slide.page.table, (margin, top), right - margin, size)


def render_slide(slide: Slide, accent: Colour, size: tuple[int, int] = (448, 392)) -> Rendered:
    """Draw a slide as a picture, as the PDF of its deck shows it."""
    surface = ImageSurface(size)
    draw_slide(surface, slide, accent)
    return surface.finish()


def write_pptx(deck: Deck) -> bytes:
    """Write a deck as PPTX, byte for byte the same for the same deck."""
    import pptx  # noqa: PLC0415 - heavy
    from pptx.util import Pt  # noqa: PLC0415

    presentation: Any = pptx.Presentation()
    presentation.slide_width = Pt(SLIDE_SIZE[0])
    presentation.slide_height = Pt(SLIDE_SIZE[1])
    properties = presentation.core_properties
    properties.created = properties.modified = _EPOCH
    properties.title = deck.slides[0].page.title
    properties.author = properties.last_modified_by = "phicorpus demo"
    for slide in deck.slides:
        _add_slide(presentation, slide, deck.accent)
    buffer = io.BytesIO()
    presentation.save(buffer)
    return _fix_times(buffer.getvalue())


def _add_slide(presentation: Any, slide: Slide, accent: Colour) -> None:  # noqa: ANN401 - untyped
    from pptx.dml.color import RGBColor  # noqa: PLC0415
    from pptx.enum.shapes import MSO_SHAPE  # noqa: PLC0415
    from pptx.enum.text import MSO_ANCHOR, PP_ALIGN  # noqa: PLC0415
    from pptx.util import Pt  # noqa: PLC0415

    width, height = SLIDE_SIZE
    added = presentation.slides.add_slide(presentation.slide_layouts[1 if slide.page.items else 5])
    bar = added.shapes.add_shape(MSO_SHAPE.RECTANGLE, Pt(0), Pt(0), Pt(12), Pt(height))
    bar.fill.solid()
    bar.fill.fore_color.rgb = RGBColor(*accent)
    bar.line.fill.background()
    title = added.shapes.title
    title.left, title.top, title.width, title.height = Pt(17), Pt(14), Pt(width - 24), Pt(62)
    title.text_frame.text = slide.page.title
    title.text_frame.paragraphs[0].alignment = PP_ALIGN.LEFT
    title.text_frame.paragraphs[0].font.size = Pt(44)
    title.text_frame.paragraphs[0].font.bold = True
    if slide.page.items:
        body = added.placeholders[1]
        body.left, body.top, body.width, body.height = Pt(17), Pt(96), Pt(width - 24), Pt(300)
        body.text_frame.text = "\n".join(slide.page.items)
        for paragraph in body.text_frame.paragraphs:
            paragraph.font.size = Pt(40)
    if slide.page.table:
        rows, columns = len(slide.page.table), len(slide.page.table[0])
        place = (Pt(20), Pt(105), Pt(width - 40), Pt(72 * rows))
        table = added.shapes.add_table(rows, columns, *place).table
        for i, row in enumerate(slide.page.table):
            for j, cell in enumerate(row):
                table.cell(i, j).text = cell
                table.cell(i, j).text_frame.paragraphs[0].font.size = Pt(38)
                table.cell(i, j).vertical_anchor = MSO_ANCHOR.MIDDLE
    if slide.chart is not None:
        _add_chart(added, slide.chart)
    if slide.notes is not None:
        added.notes_slide.notes_text_frame.text = slide.notes
    if slide.hidden:
        added._element.set("show", "0")


def _add_chart(added: Any, chart: ChartData) -> None:  # noqa: ANN401 - python-pptx is untyped
    from pptx.chart.data import CategoryChartData  # noqa: PLC0415
    from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION  # noqa: PLC0415
    from pptx.util import Pt  # noqa: PLC0415

    kinds = {
        "bar": XL_CHART_TYPE.COLUMN_CLUSTERED,
        "line": XL_CHART_TYPE.LINE_MARKERS,
        "pie": XL_CHART_TYPE.PIE,
    }
    data: Any = CategoryChartData()
    data.categories = chart.categories
    for name, values in chart.series:
        data.add_series(name, values)
    place = (Pt(12), Pt(82), Pt(SLIDE_SIZE[0] - 24), Pt(SLIDE_SIZE[1] - 90))
    native = added.shapes.add_chart(kinds[chart.kind], *place, data).chart
    native.font.size = Pt(32)
    native.has_title = False
    native.has_legend = chart.kind == "pie" or len(chart.series) > 1
    if native.has_legend:
        native.legend.position = XL_LEGEND_POSITION.RIGHT
        native.legend.include_in_layout = False
    plot = native.plots[0]
    plot.has_data_labels = True
    plot.data_labels.show_value = True
    plot.data_labels.number_format = '0"%"' if chart.kind == "pie" else "0"
    plot.data_labels.number_format_is_linked = False
    _colour_chart(native, chart)


def _colour_chart(native: Any, chart: ChartData) -> None:  # noqa: ANN401 - python-pptx is untyped
    from pptx.dml.color import RGBColor  # noqa: PLC0415
    from pptx.enum.chart import XL_LABEL_POSITION  # noqa: PLC0415

    colours = [RGBColor(*colour) for colour in chart_colours(chart)]
    series = native.plots[0].series
    if chart.kind == "pie":
        labels = native.plots[0].data_labels
        labels.position = XL_LABEL_POSITION.CENTER
        labels.font.color.rgb = RGBColor(*WHITE)
        for i in range(len(chart.categories)):
            fill = series[0].points[i].format.fill
            fill.solid()
            fill.fore_color.rgb = colours[i]
        return
    native.value_axis.major_gridlines.format.line.color.rgb = RGBColor(*PALE)
    if chart.kind == "line":
        native.plots[0].data_labels.position = XL_LABEL_POSITION.ABOVE
    for i in range(len(chart.series)):
        if chart.kind == "line":
            series[i].smooth = False
            series[i].format.line.color.rgb = colours[i]
        mark = series[i].marker.format if chart.kind == "line" else series[i].format
        mark.fill.solid()
        mark.fill.fore_color.rgb = colours[i]


def _fix_times(archive: bytes) -> bytes:
    """Rewrite a ZIP, and the ZIPs in it, with fixed times, in members and in their XML."""
    fixed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".xlsx"):
                content = _fix_times(content)
            elif name.endswith("core.xml"):
                content = _TIMES.sub(_EPOCH.isoformat().encode() + b"Z", content)
            new.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()
