"""The data of charts, whatever the format of their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from phicorpus.config import DeckConfig
from phicorpus.media.segment import Chart

_FLAG = "chart_unreadable"
_BY_PLACE = {"scatter", "bubble"}


class ChartError(Exception):
    """A chart is larger than its limit; says which."""


def check_points(num_points: int, config: DeckConfig) -> None:
    """Refuse a chart of more points than the limit.

    Raises:
        ChartError: it has more.
    """
    if num_points > config.max_chart_points:
        raise ChartError(
            f"decks.max_chart_points: {num_points} points, limit {config.max_chart_points}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plotted:
    """One series as it is plotted.

    Attributes:
        kind: bar, line, pie, ...
        labels: Of its points on the category axis, or their x values; "" for none.
        values: None for a gap.
        sizes: Of a bubble chart's points.
    """

    kind: str
    name: str
    labels: tuple[str, ...]
    values: tuple[float | None, ...]
    sizes: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Titles:
    """What a chart is called, and its axes."""

    chart: str | None = None
    category_axis: str | None = None
    value_axis: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The charts found in one drawing, and whether anything of it could not be read."""

    charts: tuple[Chart, ...] = ()
    is_whole: bool = True

    @property
    def flags(self) -> tuple[str, ...]:
        return () if self.is_whole and self.charts else (_FLAG,)


def charts(series: Sequence[Plotted], titles: Titles, config: DeckConfig) -> tuple[Chart, ...]:
    """Put series over the same categories together.

    A chart of several kinds is one `Chart` whose kind is joined by "+". Series over different
    categories (scatter, bubble) are a `Chart` each, and the sizes of bubbles a series of their
    own. A series has a gap where it ends before its categories. What has no value at all is left
    out.

    Raises:
        ChartError: it has more points than `decks.max_chart_points`, gaps included.
    """
    check_points(sum(max(len(one.labels), len(one.values)) for one in series), config)
    kind = "+".join(dict.fromkeys(one.kind for one in series))
    by_labels: dict[tuple[str, ...], list[tuple[str, tuple[float | None, ...]]]] = {}
    for one in map(_evened, series):
        found = by_labels.setdefault(one.labels, [])
        found.append((one.name, one.values))
        if one.sizes is not None:
            found.append((f"{one.name} (size)".lstrip(), one.sizes))
    return tuple(
        Chart(
            kind=kind,
            title=titles.chart,
            categories=labels,
            series=tuple(found),
            category_title=titles.category_axis,
            value_title=titles.value_axis,
        )
        for labels, found in by_labels.items()
        if any(value is not None for _, values in found for value in values)
    )


def _evened(one: Plotted) -> Plotted:
    """Fill a series with gaps up to its labels; of places without either, leave the last out."""
    if one.kind in _BY_PLACE:
        columns = [column for column in (one.labels, one.values, one.sizes) if column]
        points = list(zip_longest(*columns))
        while points and not any(value not in {"", None} for value in points[-1]):
            points.pop()
        most = len(points)
        sizes = one.sizes and one.sizes[:most]
        return replace(one, labels=one.labels[:most], values=one.values[:most], sizes=sizes)
    missing = (None,) * (len(one.labels) - len(one.values))
    return replace(one, values=(*one.values, *missing))


def nested(levels: Sequence[Mapping[int, str]], count: int) -> tuple[str, ...]:
    """Write the labels of nested categories, the outermost first.

    An outer label holds until the next one of its level.

    Args:
        levels: Labels by position, from the innermost level outwards.
        count: Number of categories.

    Example:
        >>> nested([{0: "H1", 1: "H2", 2: "H1"}, {0: "2023", 2: "2024"}], 3)
        ('2023 / H1', '2023 / H2', '2024 / H1')
    """
    if not levels:
        return ()
    outer = [_held(level, count) for level in levels[1:]]
    innermost = [levels[0].get(at, "") for at in range(count)]
    labels = zip(*reversed(outer), innermost, strict=True)
    return tuple(" / ".join(part for part in parts if part) for parts in labels)


def _held(level: Mapping[int, str], count: int) -> list[str]:
    held: list[str] = []
    for at in range(count):
        held.append(level.get(at) or (held[-1] if held else ""))
    return held
