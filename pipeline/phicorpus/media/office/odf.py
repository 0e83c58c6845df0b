"""The markup of OpenDocument: names, text with its white space, cells, and number styles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.media.lines import joined, lines
from phicorpus.media.office.number_format import Kind

_OASIS: Final = "urn:oasis:names:tc:opendocument:xmlns:"
_PLAIN: Final = ("office", "table", "text", "style", "chart", "presentation")
NAMES: Final[Mapping[str, str]] = {
    **{name: f"{_OASIS}{name}:1.0" for name in _PLAIN},
    "draw": f"{_OASIS}drawing:1.0",
    "number": f"{_OASIS}datastyle:1.0",
    "svg": f"{_OASIS}svg-compatible:1.0",
    "xlink": "http://www.w3.org/1999/xlink",
}
MAX_REPEATED: Final = 256
"""Spaces or cells that one element stands for: a file may claim millions."""


def tag(name: str) -> str:
    """Write a name with its namespace as lxml does.

    Example:
        >>> tag("text:p")
        '{urn:oasis:names:tc:opendocument:xmlns:text:1.0}p'
    """
    prefix, _, local = name.partition(":")
    return f"{{{NAMES[prefix]}}}{local}"


_WHITE: Final[Mapping[str, str]] = {
    tag("text:line-break"): "\n",
    tag("text:tab"): " ",
}
_SPACES: Final = tag("text:s")
_PAGE_BREAK: Final = tag("text:soft-page-break")
_APART: Final = {tag(name) for name in ("office:annotation", "text:p", "text:h", "draw:frame")}
_PARAGRAPHS: Final = (tag("text:p"), tag("text:h"))
_CELLS: Final = {tag("table:table-cell"), tag("table:covered-table-cell")}
_DATE_PARTS: Final = {"year", "month", "day", "day-of-week", "week-of-year", "quarter", "era"}
_TIME_PARTS: Final = {"hours": "h", "minutes": "m", "seconds": "s"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell: its text, its number where it has one, and the items of its list."""

    text: str
    number: float | None
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Style:
    """How numbers are shown: what `number_format.formatted` takes."""

    kind: Kind
    units: str


def parsed(markup: bytes) -> Any:  # noqa: ANN401 - lxml's element
    """Parse XML without entities or network.

    Raises:
        lxml.etree.LxmlError: it is not XML.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    return etree.fromstring(markup, parser)


def text_lines(element: Any) -> tuple[str, ...]:  # noqa: ANN401 - lxml's element
    """Read the lines of an element's paragraphs: what is white space is an element there."""
    return tuple(
        line
        for paragraph in element.iter(*_PARAGRAPHS)
        if not _is_comment(paragraph, element)
        for line in lines(_text(paragraph))
    )


def cells(row: Any, most: int) -> Iterator[tuple[int, Cell]]:  # noqa: ANN401 - lxml's element
    """Yield the cells of a table's row that hold something, by column; at most `most` columns."""
    at = 0
    for cell in row:
        if cell.tag not in _CELLS:
            continue
        times = whole(cell.get(tag("table:number-columns-repeated")))
        items = tuple(joined(text_lines(item)) for item in cell.iter(tag("text:list-item")))
        held = Cell(joined(text_lines(cell)), number(cell.get(tag("office:value"))), items)
        if held.text or held.number is not None:
            for offset in range(min(times, MAX_REPEATED)):
                if at + offset < most:
                    yield at + offset, held
        at += times


def styles(*roots: Any) -> dict[str, Style]:  # noqa: ANN401 - lxml's elements
    """Read the styles of numbers, by name."""
    found: dict[str, Style] = {}
    for root in roots:
        for name in ("date", "time", "percentage"):
            for style in root.iter(tag(f"number:{name}-style")):
                found.setdefault(style.get(tag("style:name")) or "", _style(style, name))
    return found


def number(text: str | None) -> float | None:
    """Read a value; None where it is none.

    Example:
        >>> number("1.5"), number("NaN"), number("x"), number(None)
        (1.5, None, None, None)
    """
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: str | None, default: int = 1) -> int:
    """Read a count, which is at least 1 where it is there."""
    digits = (text or "").strip()
    return max(int(digits[:9]), 1) if digits.isascii() and digits.isdigit() else default


def _text(paragraph: Any) -> str:  # noqa: ANN401 - lxml's element
    text = ""
    for kind, held in _held(paragraph):
        if kind == "said":
            plain = re.sub(r"\s+", " ", held)  # line ends of the markup are no line breaks
            text += plain.lstrip(" ") if text.endswith((" ", "\n")) else plain
        else:
            text += held
    return text


def _held(element: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - lxml's element
    """Yield an element's text, and what its elements of white space stand for, in order."""
    # A stack: markup may be nested deeper than Python calls.
    open_: list[tuple[Any, bool]] = [(element, False)]
    while open_:
        one, is_left = open_.pop()
        if is_left:
            if one is not element and one.tail:
                yield "said", one.tail
            continue
        open_.append((one, True))
        if one is not element and (not isinstance(one.tag, str) or one.tag in _APART):
            continue
        if one.tag == _SPACES:
            yield "white", " " * min(whole(one.get(tag("text:c"))), MAX_REPEATED)
        elif one.tag in _WHITE:
            yield "white", _WHITE[one.tag]
        elif one.tag == _PAGE_BREAK:
            yield "said", " "
        elif one.text:
            yield "said", one.text
        open_ += [(child, False) for child in reversed(one)]


def _is_comment(paragraph: Any, element: Any) -> bool:  # noqa: ANN401 - lxml's elements
    for outer in paragraph.iterancestors():
        if outer is element:
            return False
        if outer.tag == tag("office:annotation"):
            return True
    return False


def _style(style: Any, name: str) -> Style:  # noqa: ANN401 - lxml's element
    parts = [etree.QName(part).localname for part in style.iterchildren(etree.Element)]
    units = [_TIME_PARTS[part] for part in parts if part in _TIME_PARTS]
    shown = ("h" if "h" in units else "m") + ("s" if "s" in units else "m")
    if name == "percentage":
        return Style("percent", shown)
    if style.get(tag("number:truncate-on-overflow")) == "false" and units:
        return Style("elapsed", min(units) + max(units, key="hms".index))
    if any(part in _DATE_PARTS for part in parts):
        return Style("datetime" if units else "date", shown)
    return Style("time" if units else "number", shown)
