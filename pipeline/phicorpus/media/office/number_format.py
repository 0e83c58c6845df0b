"""Show a number as its format code says: dates, times, durations and percentages.

Dates and times are shown in ISO 8601; any other number with all of its digits.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from phicorpus.media.office.number_text import number_text, plain

Kind = Literal["number", "percent", "date", "time", "datetime", "elapsed"]

DAY_0: Final = {False: datetime(1899, 12, 30), True: datetime(1904, 1, 1)}  # noqa: DTZ001 - of no zone
"""Day 0 of a workbook, by whether it counts from 1904 (ECMA-376 part 1, 18.17.4.1).

The first is moved by the day that 1900 did not have."""

_DAY_S: Final = 86_400
_MAX_DAYS: Final = 4_000_000  # beyond the year 9999
_MAX_CODE: Final = 255  # characters of a format code: the rest is no one's

# ECMA-376 part 1, 18.8.31: what is quoted, escaped, or keeps a width or fills a cell.
_LITERAL: Final = re.compile(r'"[^"]*"?|\\.|[_*].')
_SECTION: Final = re.compile(r'((?:"[^"]*"?|\\.|\[[^\]]*\]|[^;])*);?', re.DOTALL)
_BRACKETS: Final = re.compile(r"\[([^\]]*)\]")
_CONDITION: Final = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?[\d.]+)")
_ELAPSED: Final = re.compile(r"h+|m+|s+", re.IGNORECASE)
_FRACTION: Final = re.compile(r"s\.0+", re.IGNORECASE)
_HALVES: Final = re.compile(r"AM/PM|A/P|上午/下午", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W\d_]+")
_TOKEN: Final = re.compile(r"y{1,4}|m{1,5}|d{1,4}|h{1,2}|s{1,2}|e{1,2}|g{1,3}|a{3,4}|b{2,4}")
_COMPARED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "<>": operator.ne,
}


def shown(text: str, code: str | None, day_0: datetime = DAY_0[False], *, exact: bool) -> str:
    """Write a number, given as text, as a reader of its format sees it; other text stays.

    Args:
        text: The number.
        code: Its format code.
        day_0: Day 0 of dates.
        exact: Keep all digits of what is no moment, whatever the format rounds or puts around it.

    Example:
        >>> codes = ("d. mmm yyyy", "h:mm", "[h]:mm", "Standard")
        >>> [shown("43831.5", code, exact=False) for code in codes]
        ['2020-01-01 12:00', '12:00', '1051956:00', '43831.5']
        >>> [shown("0.125", code, exact=False) for code in ("0%", '"day" 0.0', "General")]
        ['13%', 'day 0.1', '0.125']
        >>> shown("0.125", "0%", exact=True), shown("May", "d. mmm", exact=True)
        ('12.5%', 'May')
    """
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    section = _section(code or "", value)
    if exact or section.kind not in {"number", "percent"}:
        return formatted(value, section.kind, section.units, day_0)
    return number_text(value, section.code, is_signed=not section.is_negative)


def formatted(value: float, kind: Kind, units: str = "hm", day_0: datetime = DAY_0[False]) -> str:
    """Write a number as one of a kind; as a plain number where it can be none.

    Args:
        value: The number; days, where it is a moment.
        kind: What it is.
        units: Of times and durations, the largest and the smallest that is shown: "hm", "hs", "ms".
        day_0: Day 0 of dates.
    """
    if kind == "percent":
        return plain(value * 100) + "%"
    if kind == "number" or abs(value) > _MAX_DAYS:
        return plain(value)
    if kind == "elapsed":
        return _duration(value, units)
    with_seconds = units.endswith("s")
    step_s = 1 if with_seconds else 60
    try:
        moment = day_0 + timedelta(seconds=round(value * _DAY_S / step_s) * step_s)
    except OverflowError:
        return plain(value)
    time = moment.time().isoformat("seconds" if with_seconds else "minutes")
    if kind == "time":
        return time if units.startswith("h") else time[3:]
    # A date says its time too, where it has one.
    is_day = kind == "date" and moment.time() == datetime.min.time()
    return moment.date().isoformat() if is_day else f"{moment.date().isoformat()} {time}"


def _duration(value: float, units: str) -> str:
    """Write a number of days as hours (or minutes, or seconds) and what is left.

    Example:
        >>> _duration(1.125, "hm"), _duration(1.125, "hs"), _duration(0.0625, "ms")
        ('27:00', '27:00:00', '90:00')
    """
    first, smallest = units[0], units[-1]
    step_s = {"h": 3600, "m": 60, "s": 1}[smallest]
    seconds = round(abs(value) * _DAY_S / step_s) * step_s
    sizes = (3600, 60, 1)["hms".index(first) : "hms".index(smallest) + 1]
    parts: list[str] = []
    for size in sizes:
        count, seconds = divmod(seconds, size)
        parts.append(f"{count:02d}" if parts else str(count))
    return ("-" if value < 0 else "") + ":".join(parts)


@dataclass(frozen=True, slots=True)
class _Section:
    """One of the parts of a format code that semicolons divide."""

    code: str
    is_met: Callable[[float], bool] | None
    kind: Kind
    units: str
    is_negative: bool = False  # it writes the sign itself


def _section(code: str, value: float) -> _Section:
    """Find the section of a format code that holds for a value."""
    sections = _sections(code)
    for section in sections:
        if section.is_met is not None and section.is_met(value):
            return section
    if any(section.is_met is not None for section in sections):
        others = [section for section in sections if section.is_met is None]
        return others[-1] if others else _Section("General", None, "number", "hm")
    negative, zero = 1, 2
    if value < 0 and len(sections) > negative:
        return replace(sections[negative], is_negative=True)
    return sections[zero if value == 0 and len(sections) > zero else 0]


@lru_cache(maxsize=512)
def _sections(code: str) -> tuple[_Section, ...]:
    parts = [part for part in _SECTION.findall(code[:_MAX_CODE]) if part] or [""]
    return tuple(_Section(part, _condition(part), *_kind(part)) for part in parts[:4])


def _condition(section: str) -> Callable[[float], bool] | None:
    for inner in _BRACKETS.findall(_LITERAL.sub("", section)):
        found = _CONDITION.fullmatch(inner.strip())
        if found:
            compare, bound = _COMPARED[found[1]], _bound(found[2])
            return lambda value: compare(value, bound)
    return None


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _kind(section: str) -> tuple[Kind, str]:
    """Return what a section of a format code makes of a number; a word is no date.

    Example:
        >>> [_kind(code)[0] for code in ("[$-407]d. mmm yyyy", "Standard", "mm:ss.0", "[h]:mm")]
        ['date', 'number', 'time', 'elapsed']
    """
    code = _LITERAL.sub(" ", section)
    counted = next((inner for inner in _BRACKETS.findall(code) if _ELAPSED.fullmatch(inner)), None)
    code = _HALVES.sub(" h ", _FRACTION.sub("s", _BRACKETS.sub(" ", code)))
    words = [word.lower() for word in _WORD.findall(code)]
    letters = {letter for word in words for letter in word}
    if counted is not None:
        first = counted[0].lower()
        order = "hms"
        smallest = max([first, *(letter for letter in letters if letter in order)], key=order.index)
        return "elapsed", first + smallest
    if re.search(r"[0#?@]", code) or not words or not all(map(_is_moment, words)):
        return ("percent" if "%" in code else "number"), "hm"
    units = ("h" if "h" in letters else "m") + ("s" if "s" in letters else "m")
    has_time = bool(letters & set("hs"))
    has_date = bool(letters & set("ydegab")) or ("m" in letters and not has_time)
    has_date = has_date or bool(re.search("mmm", code, re.IGNORECASE))
    if has_date:
        return ("datetime" if has_time else "date"), units
    return "time", units


def _is_moment(word: str) -> bool:
    """Check that a run of letters is made of parts of dates and times, each once.

    Example:
        >>> [_is_moment(word) for word in ("yyyymmdd", "hhmm", "standard", "general", "dada")]
        [True, True, False, False, False]
    """
    tokens = _TOKEN.findall(word)
    once = [token[0] for token in tokens if token[0] != "m"]  # month, and minute
    return "".join(tokens) == word and len(set(once)) == len(once)
