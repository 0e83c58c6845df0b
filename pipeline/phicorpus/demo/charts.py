"""Bar, line and pie charts with known values, drawn on any surface."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from phicorpus.demo import words
from phicorpus.demo.surface import (
    GREY,
    INK,
    PALE,
    PALETTE,
    Box,
    Colour,
    ImageSurface,
    Rendered,
    Surface,
    arc,
    ellipse,
    rectangle,
)

ChartKind = Literal["bar", "line", "pie"]
CHART_KINDS: tuple[ChartKind, ...] = ("bar", "line", "pie")
# Short names, so that four of them stand side by side in large print.
_AXES = (
    ("Month", words.MONTHS[2:7]),
    ("Year", words.YEARS),
    ("Region", tuple(region.capitalize() for region in words.REGIONS[:4])),
    ("Goods", ("Pears", "Tea", "Bread", "Honey", "Paper", "Lamps", "Tiles")),
)
_STEP = 5
CHART_SIZES = ((448, 448), (448, 392), (896, 784))
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartData:
    """The content of a chart: the truth behind its picture.

    Attributes:
        axis: What the categories are: Month, Region, ...
        series: Name and values of each series, in the order of `categories`. A pie has one, and
            its values are percents that sum to 100.
    """

    kind: ChartKind
    title: str
    axis: str
    categories: tuple[str, ...]
    series: tuple[tuple[str, tuple[int, ...]], ...]

    def to_json(self) -> str:
        """Encode as one JSON object: kind, title, categories, series (name, values)."""
        series = [{"name": name, "values": list(values)} for name, values in self.series]
        return json.dumps(
            {
                "kind": self.kind,
                "title": self.title,
                "categories": list(self.categories),
                "series": series,
            }
        )

    def to_text(self) -> str:
        """Write what stands on the chart: title, each category with its value, axis."""
        _, values = self.series[0]
        rows = [f"{name} {value}" for name, value in zip(self.categories, values, strict=True)]
        blocks = [self.title, "\n".join(rows)]
        return "\n\n".join(blocks if self.kind == "pie" else [*blocks, self.axis])

    def to_markdown(self) -> str:
        """Write as a Markdown table, one row per category.

        Example:
            >>> print(ChartData(kind="bar", title="Sales", axis="Year", categories=("2024", "2025"),
            ...     series=(("Tea", (3, 4)),)).to_markdown())
            | Year | Tea |
            | --- | --- |
            | 2024 | 3 |
            | 2025 | 4 |
        """
        rows = [[self.axis, *(name for name, _ in self.series)]]
        rows.append(["---"] * len(rows[0]))
        for i, category in enumerate(self.categories):
            rows.append([category, *(str(values[i]) for _, values in self.series)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def sample_chart(rng: np.random.Generator, kind: ChartKind | None = None) -> ChartData:
    """Make up a chart: 3 or 4 categories, one series, values from 5 to 95 by fives."""
    kind = kind or CHART_KINDS[int(rng.integers(len(CHART_KINDS)))]
    if kind == "pie":
        return _sample_pie(rng)
    axes = _AXES[:2] if kind == "line" else _AXES
    axis, options = axes[int(rng.integers(len(axes)))]
    num = 3 if axis == "Goods" else int(rng.integers(3, 5))
    if axis in {"Region", "Goods"}:
        categories = words.choose_several(rng, options, num)
    else:
        start = int(rng.integers(len(options) - num + 1))
        categories = tuple(options[start : start + num])
    measure = words.choose(rng, words.MEASURES)
    values = tuple((_STEP * rng.integers(1, 20, size=num)).tolist())
    return ChartData(
        kind=kind,
        title=f"{measure} by {axis.lower()}",
        axis=axis,
        categories=categories,
        series=((measure, values),),
    )


def _sample_pie(rng: np.random.Generator) -> ChartData:
    axis, options = _AXES[2 + int(rng.integers(2))]
    num = int(rng.integers(3, 5))
    categories = words.choose_several(rng, options, num)
    weights = rng.uniform(1, 4, size=num)
    values = _STEP * np.maximum(1, np.round(100 / _STEP * weights / weights.sum())).astype(int)
    values[int(np.argmax(values))] += 100 - int(values.sum())
    return ChartData(
        kind="pie",
        title=f"Share by {axis.lower()}",
        axis=axis,
        categories=categories,
        series=(("Share", tuple(values.tolist())),),
    )


def render_chart(chart: ChartData, size: tuple[int, int] = CHART_SIZES[0]) -> Rendered:
    """Draw a chart with its title on a white picture."""
    surface = ImageSurface(size)
    draw_whole_chart(surface, chart)
    return surface.finish()


def draw_whole_chart(surface: Surface, chart: ChartData) -> None:
    """Draw a chart with its title over a whole surface."""
    margin = 0.03 * surface.height
    box = (margin, margin, surface.width - margin, surface.height - margin)
    draw_chart(surface, chart, box, text_size=0.084 * surface.width)


def draw_chart(
    surface: Surface, chart: ChartData, box: Box, *, text_size: float, with_title: bool = True
) -> None:
    """Draw a chart into a box (left, top, right, bottom) of a surface.

    Args:
        surface: Where to draw.
        chart: What to draw.
        box: Left, top, right and bottom, in the surface's units.
        text_size: Of labels; the title is larger.
        with_title: Whether the chart's title stands above it.
    """
    left, top, right, bottom = box
    if with_title:
        size = text_size * 1.15
        surface.text(((left + right) / 2, top), chart.title, size, align="centre", bold=True)
        top += size * 1.5
    if chart.kind == "pie":
        _draw_pie(surface, chart, (left, top, right, bottom), text_size)
        return
    if len(chart.series) > 1:
        names = [name for name, _ in chart.series]
        colours = chart_colours(chart)
        widths = [surface.text_width(name, text_size) + 2.6 * text_size for name in names]
        x = (left + right - sum(widths)) / 2
        for i, (name, width) in enumerate(zip(names, widths, strict=True)):
            _legend(surface, (x, top), name, colours[i], text_size)
            x += width
        top += text_size * 1.7
    _draw_axes(surface, chart, (left, top, right, bottom), text_size)


def _legend(
    surface: Surface, at: tuple[float, float], name: str, colour: Colour, size: float
) -> None:
    x, y = at
    rectangle(surface, (x, y + 0.2 * size, x + 0.9 * size, y + 1.1 * size), colour)
    surface.text((x + 1.3 * size, y), name, size)


def _draw_axes(surface: Surface, chart: ChartData, box: Box, text_size: float) -> None:
    left, top, right, bottom = box
    peak = max(max(values) for _, values in chart.series)
    step = next(s for s in (2, 5, 10, 20, 25) if peak / s <= 5)  # noqa: PLR2004 - at most 5 lines
    ceiling = step * math.ceil(peak / step)
    top += 1.2 * text_size
    bottom -= 2.9 * text_size
    for value in range(0, ceiling + 1, step):
        y = bottom - (bottom - top) * value / ceiling
        surface.path([(left, y), (right, y)], GREY if value == 0 else PALE, 0.06 * text_size)
    slot = (right - left) / len(chart.categories)
    middles = [left + slot * (i + 0.5) for i in range(len(chart.categories))]
    for x, category in zip(middles, chart.categories, strict=True):
        surface.text((x, bottom + 0.35 * text_size), category, text_size, align="centre")
    at = ((left + right) / 2, bottom + 1.75 * text_size)
    surface.text(at, chart.axis, text_size, colour=GREY, align="centre")
    plot = (left, top, right, bottom)
    draw = _draw_bars if chart.kind == "bar" else _draw_lines
    draw(surface, chart, middles, plot, (text_size, ceiling))


def _draw_bars(
    surface: Surface,
    chart: ChartData,
    middles: list[float],
    plot: Box,
    scale: tuple[float, int],
) -> None:
    text_size, ceiling = scale
    left, top, right, bottom = plot
    num = len(chart.series)
    colours = chart_colours(chart)
    width = min((right - left) / len(middles) * 0.66, 4.5 * text_size * num) / num
    for i, (_, values) in enumerate(chart.series):
        for middle, value in zip(middles, values, strict=True):
            x = middle + (i - num / 2) * width
            y = bottom - (bottom - top) * value / ceiling
            rectangle(surface, (x + 0.03 * width, y, x + 0.97 * width, bottom), colours[i])
            at = (x + width / 2, y - 1.3 * text_size)
            surface.text(at, str(value), text_size, align="centre")


def _draw_lines(
    surface: Surface,
    chart: ChartData,
    middles: list[float],
    plot: Box,
    scale: tuple[float, int],
) -> None:
    text_size, ceiling = scale
    _, top, _, bottom = plot
    colours = chart_colours(chart)
    for i, (_, values) in enumerate(chart.series):
        heights = [bottom - (bottom - top) * value / ceiling for value in values]
        points = list(zip(middles, heights, strict=True))
        surface.path(points, colours[i], 0.16 * text_size)
        radius = 0.28 * text_size
        for point, (x, y) in enumerate(points):
            ellipse(surface, (x - radius, y - radius, x + radius, y + radius), colours[i])
            sideways, offset = _label_offset(chart, i, point)
            if offset > 0 and bottom - y < 2 * text_size:
                sideways, offset = 1.1, -0.6  # no room below: beside the marker
            at = (x + sideways * text_size, y + offset * text_size)
            colour = colours[i] if len(chart.series) > 1 else INK
            surface.text(at, str(values[point]), text_size, colour=colour, align="centre")


def _label_offset(chart: ChartData, number: int, point: int) -> tuple[float, float]:
    """Place a label off the lines: x of its middle and y of its top, in text sizes."""
    values = chart.series[number][1]
    if len(chart.series) > 1:
        other = chart.series[1 - number][1]
        return 0.0, (0.3 if other[point] > values[point] else -1.5)
    left = values[point - 1] if point > 0 else None
    right = values[point + 1] if point + 1 < len(values) else None
    left_higher = left is not None and left > values[point]
    right_higher = right is not None and right > values[point]
    if left_higher == right_higher:
        return 0.0, (0.3 if left_higher else -1.5)
    if None in {left, right}:
        return (0.0, 0.3)
    return (0.6 if left_higher else -0.6), -1.5


def chart_colours(chart: ChartData) -> list[Colour]:
    """Choose a chart's own colours, the same wherever it is drawn."""
    first = sum(values[0] + 2 * values[1] for _, values in chart.series) % len(PALETTE)
    return [*PALETTE[first:], *PALETTE[:first]]


def _draw_pie(surface: Surface, chart: ChartData, box: Box, text_size: float) -> None:
    left, top, right, bottom = box
    values = chart.series[0][1]
    radius = min(bottom - top, (right - left) * 0.44) / 2
    centre = (left + radius, (top + bottom) / 2)
    turn = 0.0
    colours = chart_colours(chart)
    for i, value in enumerate(values):
        span = value / sum(values)
        points = [centre, *arc(centre, (radius, radius), (turn, turn + span))]
        surface.polygon(points, colours[i])
        surface.path([centre, points[1]], (255, 255, 255), 0.12 * text_size)
        turn += span
    height = 1.7 * text_size
    y = (top + bottom - height * len(values)) / 2
    for i, (category, value) in enumerate(zip(chart.categories, values, strict=True)):
        at = (left + (right - left) * 0.48, y + i * height)
        _legend(surface, at, category, colours[i], text_size)
        surface.text((right, at[1]), str(value), text_size, align="right")
