"""Read the data behind a native chart of a PPTX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from pptx.chart.chart import Chart as PptxChart

from pipeline.media.piece import Chart

_POINTS: Final = "./c:xVal//c:pt"
_X_FORMAT: Final = "./c:xVal/c:numRef/c:numCache/c:formatCode"
_CATEGORY_FORMAT: Final = "./c:ser[1]/c:cat/c:numRef/c:numCache/c:formatCode"
# ECMA-376 part 1, 18.8.30: what is quoted, escaped or in brackets stands for itself.
_LITERAL: Final = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
_DATE: Final = re.compile(r"[yd]|mmm", re.IGNORECASE)
# Day 0 of the two calendars (18.17.4.1), the first moved by the day that 1900 did not have.
_DAY_0: Final = {False: datetime(1899, 12, 30), True: datetime(1904, 1, 1)}  # noqa: DTZ001 - of no zone
_Series = tuple[str, tuple[float | None, ...]]


def read(chart: PptxChart) -> Iterator[Chart]:
    """Give a chart's kind, title, categories and series, as its file caches them.

    A chart of several kinds over the same categories is one `Chart` whose kind is joined by "+".
    Series over different x values (scatter, bubble) are a `Chart` each. Categories that are dates
    are in ISO 8601.
    """
    day_0 = _DAY_0[chart._chartSpace.date_1904]
    title = _title(chart)
    plots = list(chart.plots)
    kind = "+".join(dict.fromkeys(_kind(plot._element.tag) for plot in plots))
    by_categories: dict[tuple[str, ...], list[_Series]] = {}
    for plot in plots:
        written = [" / ".join(label) for label in plot.categories.flattened_labels]
        labels = _shown(written, plot._element.xpath(_CATEGORY_FORMAT), day_0)
        for series in plot.series:
            values = tuple(_number(value) for value in series.values)
            categories = _x_labels(series._element, len(values), day_0) or labels
            by_categories.setdefault(categories, []).append((series.name or "", values))
    for categories, all_series in by_categories.items():
        yield Chart(kind=kind, title=title, categories=categories, series=tuple(all_series))


def _title(chart: PptxChart) -> str | None:
    if not chart.has_title or not chart.chart_title.has_text_frame:
        return None
    return " ".join(chart.chart_title.text_frame.text.split()) or None


def _kind(tag: str) -> str:
    """Name a plot as its element does: c:bar3DChart is "bar".

    Example:
        >>> _kind("{http://schemas.openxmlformats.org/drawingml/2006/chart}bar3DChart")
        'bar'
    """
    return re.sub(r"(3D)?Chart$", "", tag.rpartition("}")[2])


def _x_labels(series: Any, num_values: int, day_0: datetime) -> tuple[str, ...]:  # noqa: ANN401 - lxml's
    """Read the x value of each point of a scatter series, "" in a gap; () for other kinds."""
    points = series.xpath(_POINTS)
    labels = {int(p.get("idx", "0")): (p.findtext("{*}v") or "").strip() for p in points}
    written = [labels.get(index, "") for index in range(num_values)] if labels else []
    return _shown(written, series.xpath(_X_FORMAT), day_0)


def _shown(labels: list[str], formats: list[Any], day_0: datetime) -> tuple[str, ...]:
    """Write labels that are formatted as dates as dates: the file has numbers of days."""
    form = _LITERAL.sub("", formats[0].text or "") if formats else ""
    return tuple(_date(label, day_0) for label in labels) if _DATE.search(form) else tuple(labels)


def _date(label: str, day_0: datetime) -> str:
    """Turn a number of days into a date, with its time where it has one.

    Example:
        >>> tuple(_date(label, _DAY_0[False]) for label in ("43831", "43831.5", "May"))
        ('2020-01-01', '2020-01-01 12:00', 'May')
    """
    try:
        moment = day_0 + timedelta(minutes=round(float(label) * 24 * 60))
    except (ValueError, OverflowError):
        return label
    at_midnight = moment.time() == datetime.min.time()
    return moment.date().isoformat() if at_midnight else moment.isoformat(" ", "minutes")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
