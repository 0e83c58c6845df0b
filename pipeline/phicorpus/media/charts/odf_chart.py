"""Read the data behind a chart of an ODP, or of a PPT that LibreOffice turned into one.

A chart keeps its numbers in a table, and says of each series which of the table's cells are its
values, its name and its x values; the table's columns alone do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from phicorpus.config import DeckConfig
from phicorpus.media.charts import chart
from phicorpus.media.charts.chart import Plotted, Reading, Titles
from phicorpus.media.charts.workbook import column_index
from phicorpus.media.lines import joined
from phicorpus.media.office.number_format import DAY_0, formatted
from phicorpus.media.office.number_text import plain
from phicorpus.media.office.odf import Cell, Style, cells, styles, tag, text_lines, whole

_KINDS: Final[Mapping[str, str]] = {
    "circle": "pie",
    "ring": "doughnut",
    "filled-radar": "radar",
    "net": "radar",
}
_CELL: Final = r"(?:(?:'(?:[^']|'')*'|[^\s.':]*)\.)?\$?([A-Za-z]{1,3})\$?(\d{1,7})"
_RANGE: Final = re.compile(rf"{_CELL}(?::{_CELL})?")
_COLUMNS: Final = 2**14
_HOUR: Final = re.compile(r"^(\d:\d\d(?::\d\d)?)$")  # as LibreOffice writes a label of h:mm

Place = tuple[int, int]


def read(root: Any, form: Any, config: DeckConfig) -> Reading:  # noqa: ANN401 - lxml's elements
    """Read the charts of an object.

    Args:
        root: Its content.xml.
        form: Its styles.xml; None where there is none.
        config: `max_chart_points`.

    Raises:
        ChartError: it has more points than the limit.
    """
    found: list[Any] = []
    is_whole = True
    for one in root.iter(tag("chart:chart")):
        reader = _Reader(one, root, styles(*(r for r in (root, form) if r is not None)), config)
        charts_ = reader.charts()
        is_whole &= bool(charts_)
        found += charts_
    return Reading(charts=tuple(found), is_whole=is_whole)


class _Reader:
    def __init__(
        self,
        chart_: Any,  # noqa: ANN401 - lxml's element
        root: Any,  # noqa: ANN401 - lxml's element
        number_styles: Mapping[str, Style],
        config: DeckConfig,
    ) -> None:
        self._chart = chart_
        self._config = config
        self._num_points = 0
        self._day_0 = _day_0(root)
        self._cells = self._table()
        self._x_axis = next((axis for axis in self._axes() if _is_along(axis)), None)
        self._style = self._axis_style(root, number_styles)

    def charts(self) -> tuple[chart.Chart, ...]:
        elements = list(self._chart.iter(tag("chart:series")))
        named = [one for one in elements if one.get(_VALUES)]
        series = list(self._plotted(named)) if named else list(self._columns())
        titles = Titles(
            chart=_title(self._chart),
            category_axis=_title(self._x_axis),
            value_axis=next(
                (t for a in self._axes() if not _is_along(a) and (t := _title(a))), None
            ),
        )
        return chart.charts(series, titles, self._config)

    def _plotted(self, elements: Sequence[Any]) -> Iterator[Plotted]:
        categories = next(self._chart.iter(tag("chart:categories")), None)
        shared = self._labels(None if categories is None else categories.get(_RANGE_OF))
        first_domains: list[str] = []
        for one in elements:
            kind = self._kind(one)
            domains = [domain.get(_RANGE_OF) or "" for domain in one.iter(tag("chart:domain"))]
            domains = domains or first_domains
            first_domains = first_domains or domains
            values = self._values(one.get(_VALUES))
            labels, sizes = shared, None
            if kind in {"scatter", "bubble"} and domains:
                labels = self._labels(domains[-1])
            if kind == "bubble" and len(domains) > 1:
                values, sizes = self._values(domains[0]), values
            yield Plotted(
                kind=kind,
                name=joined(c.text for c in self._named(one)),
                labels=labels,
                values=values,
                sizes=sizes,
            )

    def _columns(self) -> Iterator[Plotted]:
        """Take a table's columns for series, where no series says which cells are its own."""
        rows = max((row for row, _ in self._cells), default=-1) + 1
        columns = max((column for _, column in self._cells), default=-1) + 1
        self._spend(rows * columns)
        labels = tuple(self._label(self._cells.get((row, 0))) for row in range(1, rows))
        for column in range(1, columns):
            found = [self._cells.get((row, column)) for row in range(rows)]
            yield Plotted(
                kind=self._kind(self._chart),
                name=found[0].text if found[0] else "",
                labels=labels,
                values=tuple(cell.number if cell else None for cell in found[1:]),
            )

    def _kind(self, element: Any) -> str:  # noqa: ANN401 - lxml's element
        name = element.get(tag("chart:class")) or self._chart.get(tag("chart:class")) or ""
        local = name.rpartition(":")[2]
        if self._chart.get(tag("chart:class")) == "chart:ring":
            local = "ring"  # whose series are called circles
        return _KINDS.get(local, local)

    def _named(self, element: Any) -> list[Cell]:  # noqa: ANN401 - lxml's element
        lines = self._ranges(element.get(tag("chart:label-cell-address")))
        return [self._cells[place] for line in lines for place in line if place in self._cells]

    def _values(self, address: str | None) -> tuple[float | None, ...]:
        found = [self._cells.get(place) for line in self._ranges(address) for place in line]
        return tuple(cell.number if cell else None for cell in found)

    def _labels(self, address: str | None) -> tuple[str, ...]:
        """Read labels; those of nested categories lie beside each other, the outermost first."""
        lines = self._ranges(address)
        count = max(map(len, lines), default=0)
        levels: list[dict[int, str]] = []
        for line in reversed(lines):
            found = [self._cells.get(place) for place in line]
            depth = max((len(cell.levels) for cell in found if cell), default=0)
            if depth:  # LibreOffice keeps all levels in one cell, the outermost first
                levels += [_level(found, depth, at) for at in reversed(range(depth))]
            else:
                levels.append({at: self._label(cell) for at, cell in enumerate(found)})
        return chart.nested(levels, count)

    def _label(self, cell: Cell | None) -> str:
        if cell is None:
            return ""
        if cell.number is None:
            return _HOUR.sub(r"0\1", "" if cell.text == "NaN" else cell.text)
        style = self._style
        if style is None:
            return plain(cell.number)
        return formatted(cell.number, style.kind, style.units, self._day_0)

    def _ranges(self, address: str | None) -> list[list[Place]]:
        """Read the cells that an address names, in lines along the longer side of each range."""
        lines: list[list[Place]] = []
        for first, top, last, bottom in _RANGE.findall(address or ""):
            left, right = column_index(first), column_index(last or first)
            upper, lower = int(top) - 1, int(bottom or top) - 1
            height, width = lower - upper + 1, right - left + 1
            self._spend(height * width)
            rows, columns = range(upper, lower + 1), range(left, right + 1)
            if width > height:
                lines += [[(row, column) for column in columns] for row in rows]
            else:
                lines += [[(row, column) for row in rows] for column in columns]
        return lines

    def _spend(self, num_points: int) -> None:
        self._num_points += num_points
        chart.check_points(self._num_points, self._config)

    def _table(self) -> dict[Place, Cell]:
        table = self._chart.find(tag("table:table"))
        found: dict[Place, Cell] = {}
        at = 0
        for row in () if table is None else table.iter(tag("table:table-row")):
            for column, cell in cells(row, _COLUMNS):
                found[at, column] = cell
            at += whole(row.get(tag("table:number-rows-repeated")))
            chart.check_points(len(found), self._config)
        return found

    def _axes(self) -> Iterator[Any]:
        return self._chart.iter(tag("chart:axis"))

    def _axis_style(self, root: Any, number_styles: Mapping[str, Style]) -> Style | None:  # noqa: ANN401
        name = None if self._x_axis is None else self._x_axis.get(tag("chart:style-name"))
        for style in root.iter(tag("style:style")):
            if name and style.get(tag("style:name")) == name:
                return number_styles.get(style.get(tag("style:data-style-name")) or "")
        return None


_VALUES: Final = tag("chart:values-cell-range-address")
_RANGE_OF: Final = tag("table:cell-range-address")


def _level(found: Sequence[Cell | None], depth: int, at: int) -> dict[int, str]:
    """Take one level of the labels that cells hold in lists."""
    lists = [cell.levels if cell else () for cell in found]
    return {
        position: levels[at]
        for position, levels in enumerate(lists)
        if len(levels) == depth and levels[at]
    }


def _is_along(axis: Any) -> bool:  # noqa: ANN401 - lxml's element
    return axis.get(tag("chart:dimension")) == "x"


def _title(element: Any) -> str | None:  # noqa: ANN401 - lxml's element
    title = None if element is None else element.find(tag("chart:title"))
    return None if title is None else joined(text_lines(title)) or None


def _day_0(root: Any) -> datetime:  # noqa: ANN401 - lxml's element
    """Read the day that dates are counted from."""
    for day in root.iter(tag("table:null-date")):
        try:
            return datetime.fromisoformat((day.get(tag("table:date-value")) or "")[:10])
        except ValueError:
            break
    return DAY_0[False]
