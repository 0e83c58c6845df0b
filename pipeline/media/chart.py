"""Read the data behind a native chart of a PPTX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from pptx.chart.chart import Chart as PptxChart

from pipeline.media.piece import Chart

_NUMBERED: Final = "{*}xVal//{*}pt"
_Series = tuple[str, tuple[float | None, ...]]


def read(chart: PptxChart) -> Iterator[Chart]:
    """Give a chart's kind, title, categories and series, as its file caches them.

    A chart of several kinds over the same categories is one `Chart` whose kind is joined by "+".
    Series over different x values (scatter, bubble) are a `Chart` each.
    """
    title = _title(chart)
    plots = list(chart.plots)
    kind = "+".join(dict.fromkeys(_kind(plot._element.tag) for plot in plots))
    by_categories: dict[tuple[str, ...], list[_Series]] = {}
    for plot in plots:
        labels = tuple(" / ".join(label) for label in plot.categories.flattened_labels)
        for series in plot.series:
            values = tuple(_number(value) for value in series.values)
            categories = _x_labels(series._element) or labels
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


def _x_labels(series: object) -> tuple[str, ...]:
    """Read the x values of a scatter series, in order of their index; () for other kinds."""
    points = series.findall(_NUMBERED)  # pyright: ignore[reportAttributeAccessIssue] - lxml's
    ordered = sorted(points, key=lambda point: int(point.get("idx", "0")))
    return tuple((point.findtext("{*}v") or "").strip() for point in ordered)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
