"""The points of a chart: from its caches, or from the workbook inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from phicorpus.config import DeckConfig
from phicorpus.errors import SegmentError
from phicorpus.media.charts import chart
from phicorpus.media.charts.workbook import Cell, Grid, Workbook
from phicorpus.media.media_types import PPTX
from phicorpus.media.office import office_zip
from phicorpus.media.office.ooxml import PartError, Parts, tag

_MAX_WORKBOOK_BYTES: Final = 32 * 1024**2  # of one of its parts, unpacked

Level = Mapping[int, Cell]
"""Points by position: their text, and, of numbers, their format code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """What a series' data source holds: one level, or several of nested categories.

    Attributes:
        levels: From the innermost outwards.
        count: Number of points.
        is_known: False where neither a cache nor a workbook says what they are.
    """

    levels: Sequence[Level] = ()
    count: int = 0
    is_known: bool = True


@dataclass(slots=True)
class Source:
    """Points of a chart, from its caches or from the workbook inside, within the limit."""

    parts: Parts
    name: str
    link: str
    config: DeckConfig
    num_points: int = field(default=0, init=False)
    _workbook: Workbook | PartError | None = field(default=None, init=False)

    def count(self, num_points: int) -> None:
        """Add to the points of the whole chart.

        Raises:
            ChartError: they are too many.
        """
        self.num_points += num_points
        chart.check_points(self.num_points, self.config)

    def grids(self, formula: str) -> list[Grid]:
        """Read the cells that a formula names in the chart's workbook.

        Raises:
            PartError: there is no workbook, or no such cells.
        """
        workbook = self._opened()
        return workbook.grids(formula)

    @property
    def counts_from_1904(self) -> bool:
        return isinstance(self._workbook, Workbook) and self._workbook.counts_from_1904

    def _opened(self) -> Workbook:
        if self._workbook is None:
            try:
                self._workbook = self._open()
            except PartError as error:
                self._workbook = error
        if isinstance(self._workbook, PartError):
            raise self._workbook
        return self._workbook

    def _open(self) -> Workbook:
        root = self.parts.markup(self.name)
        link = next(iter(root.iter(self.link)), None)
        inside = self.parts.target(self.name, None if link is None else link.get(tag("r:id")))
        try:
            checked = office_zip.check(self.parts.content(inside), PPTX, _small(self.config))
            return Workbook(checked.content, self.config.max_chart_points)
        except SegmentError as error:
            raise PartError(f"the chart's workbook {inside} cannot be read: {error}") from error


def _small(config: DeckConfig) -> DeckConfig:
    """Return a chart's workbook smaller limits than a deck: it is read beside one."""
    return config.model_copy(
        update={
            "max_member_bytes": min(config.max_member_bytes, _MAX_WORKBOOK_BYTES),
            "max_unzipped_bytes": min(config.max_unzipped_bytes, 2 * _MAX_WORKBOOK_BYTES),
        }
    )


def from_cells(grids: Sequence[Grid]) -> Points:
    """Lay cells out as points: the longer side of an area is the one along which they lie.

    Several areas follow one another.
    """
    levels: list[dict[int, Cell]] = []
    count = 0
    for grid in grids:
        height, width = len(grid), len(grid[0]) if grid else 0
        lines = grid if width > height else list(zip(*grid, strict=True))
        for depth, line in enumerate(reversed(lines)):
            if len(levels) <= depth:
                levels.append({})
            levels[depth].update(
                {count + at: cell for at, cell in enumerate(line) if cell is not None}
            )
        count += max(height, width)
    return Points(levels=levels, count=count)
