"""Write a page's native content as text, for rows and documents alike."""

from __future__ import annotations

import re
import unicodedata
from itertools import zip_longest

from phicorpus.media.segment import Chart, Native
from phicorpus.tasks import markdown

_DIGITS = 15  # that office programs show of a number, and that a double always keeps


def parts(native: Native) -> list[str]:
    """Write all that is seen of a page: its paragraphs, tables and charts."""
    return [*paragraphs(native), *tables(native), *charts(native)]


def paragraphs(native: Native) -> list[str]:
    """Write a page's text with its title once: at its place among the text, else first.

    Example:
        >>> paragraphs(Native(title="Annual Report", text=("2024", "ANNUAL", "REPORT", "Up.")))
        ['2024', 'Annual Report', 'Up.']
    """
    place = _title_place(native)
    if not native.title or place is None:
        return [*([native.title] if native.title else []), *native.text]
    return [*native.text[: place.start], native.title, *native.text[place.stop :]]


def body(native: Native) -> list[str]:
    """Write a page's text without its title, for where that stands above it.

    Example:
        >>> body(Native(title="Annual Report", text=("2024", "Annual", "Report", "Up.")))
        ['2024', 'Up.']
    """
    place = _title_place(native)
    if place is None:
        return list(native.text)
    return [*native.text[: place.start], *native.text[place.stop :]]


def tables(native: Native) -> list[str]:
    """Write a page's tables as Markdown."""
    return [markdown.table(rows[0], rows[1:]) for rows in native.tables if rows]


def charts(native: Native) -> list[str]:
    """Write the numbers of a page's charts as Markdown tables, below their titles."""
    return [_chart(chart) for chart in native.charts]


def chart_table(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """Lay a chart out as columns: its categories, then each series.

    Example:
        >>> series = (("s", (1.0, None)), ("t", (2.5,)))
        >>> chart_table(Chart(kind="bar", title=None, categories=("x", "y"), series=series))
        (['', 's', 't'], [['x', '1', '2.5'], ['y', '', '']])
    """
    columns = [chart.category_title or "", *(name for name, _ in chart.series)]
    cells = [[_cell(point) for point in points] for _, points in chart.series]
    # Points need no label, and series may differ in length.
    rows = [list(row) for row in zip_longest(chart.categories, *cells, fillvalue="")]
    return columns, rows


def _chart(chart: Chart) -> str:
    table = markdown.table(*chart_table(chart))
    return f"{chart.title}\n\n{table}" if chart.title else table


def _cell(point: float | None) -> str:
    return "" if point is None else f"{point:.{_DIGITS}g}"


def _title_place(native: Native) -> slice | None:
    """Find the lines that say the title together, however they are cut, spaced and capitalised."""
    title = _squeezed(native.title or "")
    lines = [_squeezed(line) for line in native.text]
    for start in range(len(lines)) if title else ():
        said = ""
        for end in range(start, len(lines)):
            said += lines[end]
            if said == title and lines[start]:
                return slice(start, end + 1)
            if not title.startswith(said):
                break
    return None


def _squeezed(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s\u00ad]+", "", folded)
