"""Read cells of the workbook that lies inside a chart: what its formulas name.

Only what a chart needs: values, and the number formats of its categories.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.media.lines import unescaped
from phicorpus.media.office.ooxml import PartError, Parts, is_true, tag

_CELLS_PER_POINT: Final = 10  # of a sheet, for each point that a chart may have
_LAST: Final = 2**20  # row, and more than the last column
_SHEET: Final = re.compile(r"(?:'((?:[^']|'')*)'|([^'!(),]+))!")
_AREA: Final = re.compile(r"\$?([A-Za-z]{1,3})?\$?(\d{1,7})?(?::\$?([A-Za-z]{1,3})?\$?(\d{1,7})?)?")
_BOOK: Final = re.compile(r"^\[[^\]]*\]")
_NAME: Final = re.compile(r"[^\W\d][\w.\\]*")
# ECMA-376 part 1, 18.8.30: the formats that a workbook has without saying so.
_BUILT_IN: Final[Mapping[int, str]] = {
    9: "0%",
    10: "0.00%",
    14: "m/d/yyyy",
    15: "d-mmm-yy",
    16: "d-mmm",
    17: "mmm-yy",
    18: "h:mm AM/PM",
    19: "h:mm:ss AM/PM",
    20: "h:mm",
    21: "h:mm:ss",
    22: "m/d/yyyy h:mm",
    45: "mm:ss",
    46: "[h]:mm:ss",
    47: "mm:ss.0",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's value as text, and, of a number, the format code that it is shown by."""

    text: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of cells, its ends included, counted from 0; of the sheet, where it names one."""

    sheet: str | None
    top: int
    left: int
    bottom: int
    right: int


Grid = Sequence[Sequence[Cell | None]]
"""Rows of cells; None for an empty one."""


class Workbook:
    """An open XLSX, checked before.

    Raises:
        PartError: it is none.
    """

    def __init__(self, content: bytes, max_points: int) -> None:
        self._parts = Parts(content)
        self._max_cells = max_points * _CELLS_PER_POINT
        self._main = self._parts.related("", "officeDocument") or "xl/workbook.xml"
        self._root = self._parts.markup(self._main)
        self._sheets = {
            (sheet.get("name") or "").casefold(): sheet.get(tag("r:id"))
            for sheet in self._root.iter(tag("s:sheet"))
        }
        self._names = {
            (name.get("name") or "").casefold(): name.text or ""
            for name in self._root.iter(tag("s:definedName"))
        }
        self._cells: dict[str, dict[tuple[int, int], Cell]] = {}
        self._strings: list[str] | None = None
        self._codes: list[str | None] | None = None

    @property
    def counts_from_1904(self) -> bool:
        properties = self._root.find(tag("s:workbookPr"))
        return properties is not None and is_true(properties.get("date1904"))

    def grids(self, formula: str) -> list[Grid]:
        """Read the areas that a formula names.

        Raises:
            PartError: it names none that is there, or too many cells.
        """
        return [self._grid(area) for area in self._areas(formula)]

    def _areas(self, formula: str, depth: int = 0) -> list[Area]:
        found = areas(formula)
        if found:
            return found
        name = formula.strip().removeprefix("=").rpartition("!")[2].casefold()
        if name in self._names and _NAME.fullmatch(name) and depth < 3:  # noqa: PLR2004 - a name of a name
            return self._areas(self._names[name], depth + 1)
        raise PartError(f"the chart's formula {formula[:100]!r} names no cells")

    def _grid(self, area: Area) -> Grid:
        cells = self._of_sheet(area.sheet)
        used = [
            (row, column)
            for row, column in cells
            if area.top <= row <= area.bottom and area.left <= column <= area.right
        ]
        # A whole column ends where its cells do.
        bottom = area.bottom if area.bottom < _LAST else max((row for row, _ in used), default=0)
        right = area.right if area.right < _LAST else max((at for _, at in used), default=0)
        num_cells = max(bottom - area.top + 1, 0) * max(right - area.left + 1, 0)
        if num_cells > self._max_cells:
            raise PartError(f"the chart's formula names {num_cells} cells")
        return [
            [cells.get((row, column)) for column in range(area.left, right + 1)]
            for row in range(area.top, bottom + 1)
        ]

    def _of_sheet(self, name: str | None) -> dict[tuple[int, int], Cell]:
        key = (name or next(iter(self._sheets), "")).casefold()
        if key not in self._sheets:
            raise PartError(f"the chart's workbook has no sheet {name!r}")
        if key not in self._cells:
            part = self._parts.target(self._main, self._sheets[key])
            self._cells[key] = self._read(self._parts.content(part))
        return self._cells[key]

    def _read(self, markup: bytes) -> dict[tuple[int, int], Cell]:
        cells: dict[tuple[int, int], Cell] = {}
        num_before = sum(map(len, self._cells.values()))
        row, column = -1, -1
        events = etree.iterparse(
            io.BytesIO(markup),
            events=("start", "end"),
            tag=("{*}row", "{*}c"),
            resolve_entities=False,
            no_network=True,
            huge_tree=False,
        )
        try:
            for event, element in events:
                is_row = element.tag.endswith("}row")
                if is_row and event == "start":
                    row, column = _read_integer(element.get("r"), row + 2) - 1, -1
                elif not is_row and event == "end":
                    place = _AREA.fullmatch(element.get("r") or "")
                    column = column_index(place[1]) if place and place[1] else column + 1
                    cell = self._cell(element)
                    if cell is not None:
                        cells[row, column] = cell
                elif is_row:
                    element.clear()
                if len(cells) + num_before > self._max_cells:
                    raise PartError(f"the chart's workbook has more than {self._max_cells} cells")
        except etree.LxmlError as error:
            raise PartError(f"the chart's workbook has a broken sheet: {error}") from error
        return cells

    def _cell(self, element: Any) -> Cell | None:  # noqa: ANN401 - lxml's element
        kind, value = element.get("t"), element.findtext("{*}v")
        if kind == "inlineStr":
            return Cell("".join(text.text or "" for text in element.iter("{*}t")))
        if value is None:
            return None
        if kind == "s":
            strings, at = self._shared(), _read_integer(value, -1)
            return Cell(strings[at]) if 0 <= at < len(strings) else None
        if kind in {"str", "e"}:
            return Cell(unescaped(value))
        if kind == "b":
            return Cell(("FALSE", "TRUE")[is_true(value)])
        codes, at = self._formats(), _read_integer(element.get("s"), 0)
        return Cell(value, (codes[at] if 0 <= at < len(codes) else None) or "General")

    def _shared(self) -> list[str]:
        if self._strings is None:
            part = self._parts.related(self._main, "sharedStrings")
            items = self._parts.markup(part).iterchildren(tag("s:si")) if part else ()
            self._strings = [_string(item) for item in items]
        return self._strings

    def _formats(self) -> list[str | None]:
        """Read the format code of each style of a cell."""
        if self._codes is None:
            part = self._parts.related(self._main, "styles")
            root = self._parts.markup(part) if part else None
            own: dict[int, str] = {}
            numbers: list[int] = []
            if root is not None:
                for form in root.iterfind(f"{tag('s:numFmts')}/{tag('s:numFmt')}"):
                    own[_read_integer(form.get("numFmtId"), -1)] = form.get("formatCode") or ""
                styles = root.iterfind(f"{tag('s:cellXfs')}/{tag('s:xf')}")
                numbers = [_read_integer(style.get("numFmtId"), 0) for style in styles]
            self._codes = [own.get(number, _BUILT_IN.get(number)) for number in numbers]
        return self._codes


def areas(formula: str) -> list[Area]:
    """Read the areas of a formula; none where it is no plain reference.

    Example:
        >>> areas("Sheet1!$B$2:$B$4")
        [Area(sheet='Sheet1', top=1, left=1, bottom=3, right=1)]
        >>> areas("('It''s'!$A$1,'It''s'!$D:$D)")[1]
        Area(sheet="It's", top=0, left=3, bottom=1048576, right=3)
        >>> areas("SUM(A1)")
        []
    """
    text = formula.strip().removeprefix("=").strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    found: list[Area] = []
    sheet: str | None = None
    at = 0
    while at < len(text):
        named = _SHEET.match(text, at)
        if named:
            sheet = _BOOK.sub("", (named[1] or "").replace("''", "'") or named[2].strip())
            at = named.end()
        place = _AREA.match(text, at)
        area = _area(place, sheet) if place else None
        if place is None or area is None or text[place.end() : place.end() + 1] not in {"", ","}:
            return []
        found.append(area)
        at = place.end() + 1
    return found


def _area(place: re.Match[str], sheet: str | None) -> Area | None:
    first_column, first_row, last_column, last_row = place.groups()
    if not (first_column or first_row) or not place[0]:
        return None
    is_range = ":" in place[0]
    if not is_range:
        if not (first_column and first_row):
            return None
        last_column, last_row = first_column, first_row
    columns = sorted((column_index(first_column, 0), column_index(last_column, _LAST)))
    rows = sorted((int(first_row or 1) - 1, int(last_row) - 1 if last_row else _LAST))
    return Area(sheet, rows[0], columns[0], rows[1], columns[1])


def column_index(letters: str | None, default: int = 0) -> int:
    """Count a column from 0.

    Example:
        >>> column_index("A"), column_index("AB")
        (0, 27)
    """
    if not letters:
        return default
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _string(item: Any) -> str:  # noqa: ANN401 - lxml's element
    """Join a string's runs; not the reading aids beside them (rPh)."""
    runs = [item, *item.iterchildren(tag("s:r"))]
    return unescaped("".join(run.findtext(tag("s:t")) or "" for run in runs))


def _read_integer(text: str | None, default: int) -> int:
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else default  # noqa: PLR2004
