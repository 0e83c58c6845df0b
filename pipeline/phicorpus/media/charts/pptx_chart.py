"""Read the data behind a chart of a PPTX, from the chart's own XML.

Every element named c:...Chart is read alike, since their series are: what an object model does
not know (3-D charts, stock, surface, "of pie") loses nothing. Where the file caches no values,
they come from the workbook inside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from phicorpus.config import DeckConfig
from phicorpus.media.charts import chart
from phicorpus.media.charts.chart import Plotted, Reading, Titles
from phicorpus.media.charts.source import Level, Points, Source, from_cells
from phicorpus.media.charts.workbook import Cell
from phicorpus.media.lines import joined, one_line, unescaped
from phicorpus.media.office import number_format
from phicorpus.media.office.drawing_text import text_lines
from phicorpus.media.office.number_format import DAY_0
from phicorpus.media.office.ooxml import PartError, Parts, children, descendants, is_true, tag

_KINDS: Final[Mapping[str, str]] = {"ofPie": "pie"}
_POINT, _LEVEL, _COUNT = tag("c:pt"), tag("c:lvl"), tag("c:ptCount")
_GENERAL: Final = "General"


def read(parts: Parts, name: str, config: DeckConfig) -> Reading:
    """Read a chart's kind, titles, categories and series, as its file caches or keeps them.

    Labels are written as their axis shows them, dates and times in ISO 8601.

    Raises:
        PartError: the part is missing or broken.
        ChartError: it has more points than `decks.max_chart_points`.
    """
    space = parts.markup(name)
    return _Reader(space, Source(parts, name, tag("c:externalData"), config)).reading()


class _Reader:
    def __init__(self, space: Any, source: Source) -> None:  # noqa: ANN401 - lxml's element
        self._space = space
        self._source = source
        self._area = next(descendants(space, "c:plotArea"), ())
        self._axes = {
            _value(axis, "c:axId"): axis for axis in children(self._area) if _is(axis, "Ax")
        }
        self._is_whole = True

    def reading(self) -> Reading:
        plots = [plot for plot in children(self._area) if _is(plot, "Chart")]
        series: list[Plotted] = []
        for plot in plots:
            series += self._plotted(plot, series[0].labels if series else ())
        titles = Titles(
            chart=self._title(series),
            category_axis=self._axis_title(plots, is_category=True),
            value_axis=self._axis_title(plots, is_category=False),
        )
        return Reading(
            charts=chart.charts(series, titles, self._source.config), is_whole=self._is_whole
        )

    def _plotted(self, plot: Any, earlier: tuple[str, ...]) -> Iterator[Plotted]:  # noqa: ANN401
        all_series = sorted(plot.iterchildren(tag("c:ser")), key=_order)
        axis = self._category_axis(plot)
        shared = earlier
        for series in all_series:
            found = self._labels(series.find(tag("c:cat")), axis)
            if found:  # the axis has the labels of the first series that has some
                shared = found
                break
        for series in all_series:
            values = self._numbers(series, "c:val", "c:yVal")
            own = self._labels(series.find(tag("c:xVal")), axis)
            sizes = series.find(tag("c:bubbleSize"))
            yield Plotted(
                kind=kind(plot.tag),
                name=self._name(series),
                labels=own or shared,
                values=values,
                sizes=None if sizes is None else self._numbers(series, "c:bubbleSize"),
            )

    def _name(self, series: Any) -> str:  # noqa: ANN401 - lxml's element
        text = series.find(tag("c:tx"))
        return "" if text is None else self._written(text)

    def _written(self, text: Any) -> str:  # noqa: ANN401 - lxml's element
        """Read a c:tx: rich text, a literal, or cells."""
        rich, literal = text.find(tag("c:rich")), text.find(tag("c:v"))
        if rich is not None:
            return joined(text_lines(rich))
        if literal is not None:
            return one_line(unescaped(literal.text or ""))
        points = self._points(text)
        cells = [cell.text for level in points.levels for _, cell in sorted(level.items())]
        return joined(filter(None, map(one_line, cells)))

    def _numbers(self, series: Any, *names: str) -> tuple[float | None, ...]:  # noqa: ANN401
        """Read a series' values; a point that is no number is a gap."""
        found = (series.find(tag(name)) for name in names)
        element = next((one for one in found if one is not None), None)
        if element is None:
            return ()
        points = self._points(element)
        level = points.levels[0] if points.levels else {}
        has_numbers = any(cell.code is not None for cell in level.values())
        values = {
            at: number(cell.text)
            for at, cell in level.items()
            if cell.code is not None or not has_numbers  # among numbers a text is a gap
        }
        self._is_whole &= all(
            values.get(at) is not None or cell.code is None or _is_no_value(cell.text)
            for at, cell in level.items()
        )
        return tuple(values.get(at) for at in range(points.count))

    def _labels(self, element: Any, axis: Any) -> tuple[str, ...]:  # noqa: ANN401 - lxml's elements
        if element is None:
            return ()
        points = self._points(element)
        own = axis.find(tag("c:numFmt")) if axis is not None else None
        code = None
        if own is not None and own.get("sourceLinked") in {"0", "false"}:
            code = own.get("formatCode")
        is_1904 = self._source.counts_from_1904 or _flag(self._space, "c:date1904", missing=False)
        day_0 = DAY_0[is_1904]
        # What x values are is a number, and what stands below a category axis is a text.
        exact = element.tag == tag("c:xVal")
        levels = [
            {
                at: one_line(number_format.shown(cell.text, code or cell.code, day_0, exact=exact))
                if cell.code is not None
                else one_line(cell.text)
                for at, cell in level.items()
            }
            for level in points.levels
        ]
        return chart.nested(levels, points.count)

    def _points(self, element: Any) -> Points:  # noqa: ANN401 - lxml's element
        """Read what a data source refers to, or holds itself."""
        points = Points(is_known=False)
        for source in children(element):
            if _is(source, "Ref"):
                points = self._referred(source)
            elif _is(source, "Lit"):
                points = self._cached(source)
        self._source.count(points.count * max(len(points.levels), 1))
        self._is_whole &= points.is_known
        return points

    def _referred(self, reference: Any) -> Points:  # noqa: ANN401 - lxml's element
        caches = [child for child in children(reference) if _is(child, "Cache")]
        cached = self._cached(caches[0]) if caches else Points(is_known=False)
        formula = reference.findtext(tag("c:f"))
        if any(cached.levels) or not formula:
            return cached
        try:
            grids = self._source.grids(formula)
        except PartError:
            return cached if cached.count else Points(is_known=False)
        return from_cells(grids)

    def _cached(self, cache: Any) -> Points:  # noqa: ANN401 - lxml's element
        levels = [child for child in children(cache) if child.tag == _LEVEL] or [cache]
        code = cache.findtext(tag("c:formatCode")) or _GENERAL
        is_number = _is(cache, "numCache", "numLit")
        read_ = [_level(level, code if is_number else None) for level in levels]
        last = max((at for level in read_ for at in level), default=-1)
        count = max(_read_integer(_value(cache, "c:ptCount")), last + 1)
        return Points(levels=read_, count=count)

    def _category_axis(self, plot: Any) -> Any:  # noqa: ANN401 - lxml's elements
        """Find the axis of the categories; of two axes of values, the one along the bottom."""
        ids = [one.get("val") for one in plot.iterchildren(tag("c:axId"))]
        axes = [self._axes[one] for one in ids if one in self._axes]
        named = [axis for axis in axes if _is(axis, "catAx", "dateAx")]
        along = [axis for axis in axes if _value(axis, "c:axPos") in {"b", "t"}]
        return next(iter([*named, *along, *axes]), None)

    def _axis_title(self, plots: Sequence[Any], *, is_category: bool) -> str | None:
        for plot in plots:
            category = self._category_axis(plot)
            ids = [one.get("val") for one in plot.iterchildren(tag("c:axId"))]
            axes = [self._axes[one] for one in ids if one in self._axes]
            for axis in axes:
                is_wanted = (axis is category) == is_category and not _is(axis, "serAx")
                text = axis.find(f"{tag('c:title')}/{tag('c:tx')}")
                if is_wanted and text is not None:
                    return self._written(text) or None
        return None

    def _title(self, series: Sequence[Plotted]) -> str | None:
        """Read the title, or make the one that a chart of one series has by itself."""
        outer = next(descendants(self._space, "c:chart"), self._space)
        title = outer.find(tag("c:title"))
        text = None if title is None else title.find(tag("c:tx"))
        if text is not None:
            return self._written(text) or None
        is_made = _flag(outer, "c:autoTitleDeleted", missing=title is None) is False
        return series[0].name or None if is_made and len(series) == 1 else None


def kind(name: str) -> str:
    """Name a plot as its element does, without its depth: c:bar3DChart is "bar".

    Example:
        >>> kind("{http://schemas.openxmlformats.org/drawingml/2006/chart}bar3DChart")
        'bar'
        >>> kind("ofPieChart")
        'pie'
    """
    plain = re.sub(r"(3D)?Chart$", "", name.rpartition("}")[2])
    return _KINDS.get(plain, plain)


def number(text: str) -> float | None:
    """Read a value; None where it is none, such as "#N/A".

    Example:
        >>> number("1.5"), number("#N/A"), number("nan")
        (1.5, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _is_no_value(text: str) -> bool:
    """Check whether a number's place rightly holds none, such as "#N/A"; else it is damaged."""
    return text.startswith("#") or text.strip("+-").casefold() in {"nan", "inf", "infinity"}


def _level(element: Any, code: str | None) -> Level:  # noqa: ANN401 - lxml's element
    found: dict[int, Cell] = {}
    for point in element.iterchildren(_POINT):
        text = unescaped(point.findtext(tag("c:v")) or "").strip()
        if text:
            own = point.get("formatCode") if code is not None else None
            found[_read_integer(point.get("idx"))] = Cell(text, own or code)
    return found


def _is(element: Any, *endings: str) -> bool:  # noqa: ANN401 - lxml's element
    space, _, local = element.tag.rpartition("}")
    return space == tag("c:").rstrip("}") and local.endswith(endings)


def _value(element: Any, name: str) -> str | None:  # noqa: ANN401 - lxml's element
    found = element.find(tag(name))
    return None if found is None else found.get("val")


def _flag(element: Any, name: str, *, missing: bool) -> bool:  # noqa: ANN401 - lxml's element
    """Read a CT_Boolean, whose value is true where it has none."""
    found = element.find(tag(name))
    return missing if found is None else is_true(found.get("val", "1"))


def _read_integer(text: str | None) -> int:
    digits = (text or "").strip()
    is_whole = digits.isascii() and digits.isdigit()
    return min(int(digits[:10]), 10**9) if is_whole else 0


def _order(series: Any) -> int:  # noqa: ANN401 - lxml's element
    return _read_integer(_value(series, "c:order"))
