"""Read the data behind a chart of the newer kind (cx:chartSpace, [MS-ODRAWXML] 2.24).

Waterfall, treemap, sunburst, histogram, Pareto, box and whisker, funnel and map charts. Renderers
that do not know them draw a sentence in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from phicorpus.config import DeckConfig
from phicorpus.media.charts import chart
from phicorpus.media.charts.chart import Plotted, Reading, Titles
from phicorpus.media.charts.pptx_chart import number
from phicorpus.media.charts.source import Points, Source, from_cells
from phicorpus.media.charts.workbook import Cell
from phicorpus.media.lines import joined, one_line
from phicorpus.media.office.drawing_text import text_lines
from phicorpus.media.office.number_format import shown
from phicorpus.media.office.ooxml import PartError, Parts, children, descendants, is_true, tag

_STRINGS, _NUMBERS = tag("cx:strDim"), tag("cx:numDim")
_KINDS: Final[Mapping[str, str]] = {"clusteredColumn": "histogram", "paretoLine": "pareto"}
_MAX_INDEX: Final = 10**9


def read(parts: Parts, name: str, config: DeckConfig) -> Reading:
    """Read a chart's kind, title, categories and series.

    Raises:
        PartError: the part is missing or broken.
        ChartError: it has more points than `decks.max_chart_points`.
    """
    space = parts.markup(name)
    source = Source(parts, name, tag("cx:externalData"), config)
    data = {one.get("id"): one for one in descendants(space, "cx:data")}
    series = list(descendants(space, "cx:series"))
    layouts = [one.get("layoutId") or "" for one in series]
    is_pareto = "paretoLine" in layouts
    plotted: list[Plotted] = []
    is_whole = True
    for one in series:
        data_id = one.find(tag("cx:dataId"))
        if data_id is None or is_true(one.get("hidden")):
            continue  # a line over another series, or filtered out
        layout = "paretoLine" if is_pareto else one.get("layoutId") or ""
        found, is_known = _plotted(one, layout, data.get(data_id.get("val")), source)
        plotted += found
        is_whole &= is_known
    titles = Titles(chart=_title(space), **_axis_titles(space))
    return Reading(charts=chart.charts(plotted, titles, config), is_whole=is_whole)


def _plotted(
    series: Any,  # noqa: ANN401 - lxml's element
    layout: str,
    data: Any,  # noqa: ANN401 - lxml's element
    source: Source,
) -> tuple[list[Plotted], bool]:
    dimensions = [] if data is None else list(children(data))
    labels, values = Points(), Points(is_known=False)
    for dimension in dimensions:
        # Maps name places for machines too (entityId).
        if dimension.tag == _STRINGS and dimension.get("type", "cat") == "cat":
            labels = _points(dimension, source)
        elif dimension.tag == _NUMBERS and not values.levels:
            values = _points(dimension, source)
    level = values.levels[0] if values.levels else {}
    plotted = Plotted(
        kind=_KINDS.get(layout, layout),
        name=_name(series),
        labels=chart.nested(_texts(labels), max(labels.count, values.count if labels.count else 0)),
        values=tuple(number(level[at].text) if at in level else None for at in range(values.count)),
    )
    return [plotted] if level else [], labels.is_known and values.is_known


def _texts(labels: Points) -> list[dict[int, str]]:
    return [
        {
            at: one_line(shown(c.text, c.code, exact=False) if c.code else c.text)
            for at, c in level.items()
        }
        for level in labels.levels
    ]


def _points(dimension: Any, source: Source) -> Points:  # noqa: ANN401 - lxml's element
    """Read a dimension's cached levels, else the cells that it names."""
    levels: list[Mapping[int, Cell]] = []
    count = 0
    for level in dimension.iterchildren(tag("cx:lvl")):
        is_number = dimension.tag == _NUMBERS
        code = (level.get("formatCode") or "General") if is_number else None
        cells = {
            _index(point.get("idx")): Cell(text, code)
            for point in level.iterchildren(tag("cx:pt"))
            if (text := (point.text or "").strip())
        }
        levels.append(cells)
        count = max(count, _index(level.get("ptCount")), max(cells, default=-1) + 1)
    points = Points(levels=levels, count=count, is_known=bool(levels))
    formula = dimension.findtext(tag("cx:f"))
    if not any(levels) and formula:
        try:
            points = from_cells(source.grids(formula))
        except PartError:
            points = Points(count=count, is_known=bool(count))
    source.count(points.count * max(len(points.levels), 1))
    return points


def _name(series: Any) -> str:  # noqa: ANN401 - lxml's element
    value = next(descendants(series, "cx:tx"), None)
    return "" if value is None else _written(value)


def _title(space: Any) -> str | None:  # noqa: ANN401 - lxml's element
    for outer in descendants(space, "cx:chart"):
        for title in outer.iterchildren(tag("cx:title")):
            return _written(title) or None
    return None


def _axis_titles(space: Any) -> dict[str, str | None]:  # noqa: ANN401 - lxml's element
    found: dict[str, str | None] = {}
    for axis in descendants(space, "cx:axis"):
        is_category = any(child.tag == tag("cx:catScaling") for child in children(axis))
        for title in axis.iterchildren(tag("cx:title")):
            found["category_axis" if is_category else "value_axis"] = _written(title) or None
    return found


def _written(element: Any) -> str:  # noqa: ANN401 - lxml's element
    rich: Sequence[str] = text_lines(element)
    return joined(rich) or one_line(" ".join(_literals(element)))


def _literals(element: Any) -> Iterator[str]:  # noqa: ANN401 - lxml's element
    return (value.text or "" for value in descendants(element, "cx:v"))


def _index(text: str | None) -> int:
    digits = (text or "").strip()
    return min(int(digits[:10]), _MAX_INDEX) if digits.isascii() and digits.isdigit() else 0
