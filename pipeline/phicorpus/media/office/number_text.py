"""Write a number as a section of a format code says: digits, separators, and words around them."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal, DecimalException, InvalidOperation
from typing import Final

_DIGITS: Final = 15  # that office programs show of a number, and that a double always keeps
# ECMA-376 part 1, 18.8.31. A place for a width or a fill (_x, *x) shows as a space, or not at all.
_TOKEN: Final = re.compile(
    r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|_(?P<width>.)|\*(?P<fill>.)'
    r"|\[\$(?P<currency>[^\]-]*)[^\]]*\]|(?P<other>\[[^\]]*\])"
    r"|(?P<digits>[0#?][0#?,.]*(?:[eE][+-][0#?]+)?|\.[0#?]+)|(?P<plain>.)",
    re.DOTALL,
)
_SHAPE: Final = re.compile(r"([0#?,]*)(?:\.([0#?]*))?(,*)(?:([eE])([+-])([0#?]+))?")


def plain(value: float) -> str:
    """Write a number with all of its digits.

    Example:
        >>> plain(1234567.0), plain(0.1 + 0.2)
        ('1234567', '0.3')
    """
    return f"{value:.{_DIGITS}g}"


def number_text(value: float, code: str, *, is_signed: bool) -> str:
    """Write a number by a section of a format code; plainly where that has no digits, or fractions.

    Args:
        value: The number.
        code: The section.
        is_signed: Put a minus before a negative number; else the section has it.

    Example:
        >>> [number_text(1234.5, code, is_signed=True) for code in ("#,##0.00", "General", "0,")]
        ['1,234.50', '1234.5', '1']
        >>> number_text(0.5, '[Red]0.0%" up"', is_signed=True)
        '50.0% up'
        >>> number_text(-2e-5, "0.00E+00", is_signed=True)
        '-2.00E-05'
    """
    before, digits, after = "", "", ""
    for token in _TOKEN.finditer(code):
        if token["digits"] and digits:
            return plain(value)  # several runs of digits: a fraction, or a number with dashes
        if token["digits"]:
            digits = token["digits"]
            continue
        words = token["quoted"] or token["escaped"] or token["currency"] or token["plain"] or ""
        words = " " if token["width"] else words
        before, after = (before, after + words) if digits else (before + words, after)
    if not digits or "@" in before + after:
        return plain(value)
    num_percent = len(re.findall("%", before + after))
    try:
        written = _written(Decimal(repr(abs(value))) * 100**num_percent, digits)
    except DecimalException:
        return plain(value)  # more digits than any format shows
    sign = "-" if value < 0 and is_signed else ""
    return f"{sign}{before}{written}{after}".strip()


def _written(value: Decimal, digits: str) -> str:
    found = _SHAPE.fullmatch(digits)
    if not found:
        raise InvalidOperation
    whole, decimals, scale, exponent = found[1], found[2] or "", found[3], found[4]
    thousands = whole.rstrip(",")
    value = value.scaleb(-3 * (len(scale) + len(whole) - len(thousands)))
    power = value.adjusted() if exponent and value else 0
    rounded = value.scaleb(-power).quantize(Decimal(1).scaleb(-len(decimals)), ROUND_HALF_UP)
    if exponent and rounded >= 10:  # noqa: PLR2004 - rounded up to one digit more
        power, rounded = power + 1, rounded / 10
    plain_digits = f"{rounded:{',' if ',' in thousands else ''}.{len(decimals)}f}"
    head, _, tail = plain_digits.partition(".")
    kept = len(decimals.rstrip("#"))
    tail = tail[:kept] + tail[kept:].rstrip("0")
    head = head.zfill(thousands.count("0")) if "," not in head else head
    text = f"{head}.{tail}" if tail else head
    if not exponent:
        return text
    sign = "-" if power < 0 else "+" if found[5] == "+" else ""
    return f"{text}{exponent}{sign}{str(abs(power)).zfill(found[6].count('0'))}"
